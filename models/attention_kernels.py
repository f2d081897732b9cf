"""Attention kernels: `choose_kernel` picks one for an AttentionSpec; `attend` runs all but `dense`, which is
`dot_product_attention` in models/attention.py.

`dense` makes the scores of all queries and keys, [T,S]. The others have memory linear in the length:
`chunked` is plain JAX for every case, `splash` and `triton` are the kernels for TPUs and GPUs that come with
JAX. jax.nn.dot_product_attention has no segment ids, so cuDNN could not isolate packed documents without a
mask [T,S].
"""

import functools
import math
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models import chunked_attention
from models.inputs import AttentionMask
from models.logical_axes import has_rules, mesh_axes, other_axes

KERNELS = ("dense", "chunked", "splash", "triton")
_PLATFORM = {"splash": "tpu", "triton": "gpu"}
_LANES = 128  # lengths are a multiple of this in splash and triton
# 'auto' takes dense attention below this product of lengths. On a CPU, chunked attention is at most a
# quarter slower from 512 x 512 on (docs/performance.md); the value for other platforms is a guess.
DENSE_BELOW = {"cpu": 512 * 512, "other": 256 * 256}


@dataclass(frozen=True)
class AttentionSpec:
    """What the choice of a kernel depends on. Lengths are in tokens; num_keys excludes num_leading."""

    num_queries: int
    num_keys: int
    attention: str = "causal"  # inputs.ATTENTION_TYPES
    is_cross: bool = False
    has_bias: bool = False
    sliding_window: int = 0
    cap: float = 0.0
    has_dropout: bool = False
    num_leading: int = 0  # keys that prefix tuning puts first
    num_kv_heads: int = 1
    platform: str = ""  # 'cpu', 'gpu', 'tpu'; '': the platform of the active mesh, or JAX's default

    @property
    def resolved_platform(self) -> str:
        return self.platform or current_platform()


def current_platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the devices that a program is traced for."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def why_unsupported(kernel: str, spec: AttentionSpec) -> str:
    """Why a kernel cannot compute an attention spec; '' if it can."""
    if kernel in ("dense", "chunked"):
        return ""
    if spec.resolved_platform != _PLATFORM[kernel]:
        return (
            f"it runs on a {_PLATFORM[kernel].upper()}, not on a {spec.resolved_platform.upper()}"
        )
    lacks = {
        "prefix attention": spec.attention == "prefix",
        "relative bias": spec.has_bias,
        "dropout": spec.has_dropout,
        "prefix tuning": spec.num_leading,
    }
    if kernel == "triton":
        lacks["cross-attention"] = spec.is_cross
        lacks["sliding window"] = spec.sliding_window
        lacks["soft cap"] = spec.cap
    if missing := [name for name, is_so in lacks.items() if is_so]:
        return f"it does not support {missing[0]}"
    if split_axes(spec.num_kv_heads, spec.num_queries)[1]:
        return (
            f"it needs whole rows, but the mesh shards query positions, because tensor * sequence does not "
            f"divide the {spec.num_kv_heads} key-value heads"
        )
    if spec.num_queries % _LANES or spec.num_keys % _LANES:
        return f"it needs lengths that are multiples of {_LANES}, not {spec.num_queries} and {spec.num_keys}"
    return ""


def choose_kernel(option: str, spec: AttentionSpec) -> str:
    """The kernel for an attention spec: `option`, one of KERNELS, or the one that 'auto' chooses.

    Raises ValueError if the kernel named cannot compute it.
    """
    if option != "auto":
        if reason := why_unsupported(option, spec):
            raise ValueError(
                f"model.attention_kernel={option!r}: {reason}; set model.attention_kernel=auto, or chunked"
            )
        return option
    size = DENSE_BELOW.get(spec.resolved_platform, DENSE_BELOW["other"])
    if spec.num_queries == 1 or spec.num_queries * spec.num_keys < size:
        return "dense"
    return next((each for each in _PLATFORM if not why_unsupported(each, spec)), "chunked")


def attend(
    kernel: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    *,
    bias: jax.Array | None = None,
    cap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """softmax(q k + bias) v by 'chunked', 'splash' or 'triton': q[B,T,H,K], k and v [B,S,G,K] -> [B,T,H,K].

    Each device computes its rows and heads, or queries (`split_axes`). The output of a query without a
    visible key is not defined.

    Args:
      bias: float32[H,T+S-1], by distance, as in chunked_attention.
      dropout_rng: None: no dropout.
      interpret: runs the kernels of other platforms on a CPU, for tests.
    """
    num_rows, _, num_heads, _ = q.shape
    groups = k.shape[2]
    q = q.transpose(0, 2, 1, 3).reshape(num_rows, groups, num_heads // groups, q.shape[1], -1)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    if bias is not None:
        bias = bias.reshape(groups, num_heads // groups, -1)
    dropout_rngs = None
    if dropout_rng is not None:  # one per row and key head: the same bits on every mesh
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        by_row = fold(dropout_rng, jnp.arange(num_rows))
        dropout_rngs = jax.vmap(fold, (0, None))(by_row, jnp.arange(groups))
    if kernel == "chunked":
        options = chunked_attention.Options(cap, dropout_rate, chunked_attention.BLOCK)
        run = functools.partial(chunked_attention.chunked_attention, options=options)
    else:
        call = {"splash": _splash, "triton": _triton}[kernel]

        def run(q, k, v, mask, bias, dropout_rngs):
            return call(q, k, v, mask, cap, interpret)

    out = _on_each_device(run, groups)(q, k, v, mask, bias, dropout_rngs)
    return out.reshape(num_rows, num_heads, *out.shape[3:]).transpose(0, 2, 1, 3)


def split_axes(groups: int, length: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mesh axes of the key heads and of the queries, in a kernel. If the number of key heads is a
    multiple of the product of all these axes, all of them split the heads, and each device has whole rows
    (DeepSpeed-Ulysses: Jacobs et al. 2023). Otherwise each device has a part of the queries and all keys of
    its heads."""
    if not has_rules():
        return (), ()
    heads, queries = mesh_axes("H", groups), mesh_axes("T", length)
    shape = jax.sharding.get_abstract_mesh().shape
    if groups % math.prod(shape[axis] for axis in (*heads, *queries)) == 0:
        return (*heads, *queries), ()
    return heads, queries


def _on_each_device(run, groups):
    """`run` in a shard_map over the rows, heads and queries of its arguments, on several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if not has_rules() or mesh.size == 1:
        return run

    def call(q, k, v, mask, bias, dropout_rngs):
        rows, (heads, queries) = mesh_axes("B", len(q)), split_axes(groups, q.shape[3])
        if not (rows or heads or queries):
            return run(q, k, v, mask, bias, dropout_rngs)

        def part(q, k, v, mask, bias, dropout_rngs):
            if queries:
                first = jax.lax.axis_index(queries) * jnp.int32(q.shape[3])
                mask = mask.replace(first_query=first)
                if bias is not None:  # element T-1+s-t, of queries t from `first` on
                    size = q.shape[3] + bias.shape[2] - length
                    start = jnp.int32(length - q.shape[3]) - first
                    bias = jax.lax.dynamic_slice_in_dim(bias, start, size, axis=2)
            return run(q, k, v, mask, bias, dropout_rngs)

        length, by_row = q.shape[3], PartitionSpec(rows or None)
        by_head = PartitionSpec(rows or None, heads or None)
        by_query = PartitionSpec(rows or None, heads or None, None, queries or None)
        masks = jax.tree.map(lambda _: by_row, mask)
        masks = masks.replace(query_segment_ids=PartitionSpec(rows or None, queries or None))
        specs = (
            by_query, by_head, by_head, masks,
            None if bias is None else PartitionSpec(heads or None), None if dropout_rngs is None else by_head,
        )  # fmt: skip
        # The replica axis too: vmap(spmd_axis_name=...) adds it to the specs.
        mapped = jax.shard_map(
            part, mesh=mesh, in_specs=specs, out_specs=by_query,
            axis_names={*rows, *heads, *queries, *other_axes()}, check_vma=False,
        )  # fmt: skip
        return mapped(q, k, v, mask, bias, dropout_rngs)

    return call


def _splash(q, k, v, mask, cap, interpret):
    """q[B,G,R,T,K], k and v [B,G,S,K]: jax.experimental.pallas.ops.tpu.splash_attention."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    B, G, R, T, K = q.shape
    shape, window = (T, k.shape[2]), mask.sliding_window
    if window:
        right = 0 if mask.attention == "causal" else window - 1
        visible = splash.LocalMask(shape, (window - 1, right), 0)
    else:
        visible = (splash.CausalMask if mask.attention == "causal" else splash.FullMask)(shape)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([visible] * (G * R)), head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=cap or None, interpret=interpret,
    )  # fmt: skip
    segments = splash.SegmentIds(mask.query_segment_ids, mask.key_segment_ids)
    out = jax.vmap(kernel)(q.reshape(B, G * R, T, K), k, v, segments)
    return out.reshape(q.shape).astype(v.dtype)


def _triton(q, k, v, mask, cap, interpret):
    """q[B,G,R,T,K], k and v [B,G,S,K]: jax.experimental.pallas.ops.gpu.attention."""
    with warnings.catch_warnings():  # JAX 0.12 deprecates it in favor of the package tokamax
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu import attention

    B, G, R, T, K = q.shape
    k, v = (jnp.repeat(x, R, axis=1).transpose(0, 2, 1, 3) for x in (k, v))
    out = attention.mha(
        q.reshape(B, G * R, T, K).transpose(0, 2, 1, 3), k, v, mask.query_segment_ids,
        causal=mask.attention == "causal", interpret=interpret,
    )  # fmt: skip
    return out.transpose(0, 2, 1, 3).reshape(q.shape)


def describe_attention(
    config, inputs, decoder_inputs=None, *, platform: str = "", num_added=0, num_leading=0
) -> str:
    """A line for the log: the kernels of a model that trains on (abstract) ModelInputs.

    num_added: positions that an adapter adds before the text. num_leading: keys that it prepends in each
    attention layer.
    Raises ValueError as `choose_kernel` does.
    """
    if config.architecture == "embeddings":
        return "attention: none"
    encoder_decoder = config.architecture == "encoder_decoder"
    stacks = [("encoder" if encoder_decoder else config.architecture, inputs, False)]
    if encoder_decoder:
        stacks += [("decoder", decoder_inputs, False), ("cross-attention", decoder_inputs, True)]

    def length_of(each):
        return each.tokens.shape[-1] + (num_added if each is inputs else 0)

    descriptions = {}
    for name, queries, is_cross in stacks:
        num_queries = length_of(queries)
        num_keys = length_of(inputs) if is_cross else num_queries
        layers = config.num_layers_in("decoder" if is_cross else name)
        for window in {0 if is_cross else config.sliding_window_at(i) for i in range(layers)}:
            spec = AttentionSpec(
                num_queries, num_keys, "bidirectional" if is_cross else queries.attention, is_cross,
                config.positions == "relative" and not is_cross, window,
                config.attention_logit_softcap, config.attention_dropout_rate > 0, platform=platform,
                num_leading=num_leading, num_kv_heads=config.resolved_num_kv_heads,
            )  # fmt: skip
            kernel = choose_kernel(config.attention_kernel, spec)
            line = f"{name} {kernel} ({num_queries} x {num_keys})"
            descriptions[line] = True  # once for all windows
    return "attention: " + ", ".join(descriptions)


def kernel_table() -> list[tuple[str, ...]]:
    """Rows (platform, attention, window or bias, kernel of 'auto' for 2048 tokens, why no splash, triton)."""
    rows = []
    for platform in ("cpu", "gpu", "tpu"):
        for attention in ("causal", "bidirectional", "prefix", "cross"):
            for extra in ("", "window", "bias"):
                if extra == "window" and attention == "prefix" or extra and attention == "cross":
                    continue  # no published model has these
                spec = AttentionSpec(
                    2048, 2048, "bidirectional" if attention == "cross" else attention,
                    attention == "cross", extra == "bias", 256 * (extra == "window"),
                    platform=platform,
                )  # fmt: skip
                kernel = choose_kernel("auto", spec)
                fused = next((n for n, p in _PLATFORM.items() if p == platform), "")
                reason = why_unsupported(fused, spec) if fused else ""
                reason = f"{fused}: {reason}" if reason else "-"
                rows.append((platform, attention, extra or "-", kernel, reason))
    return rows
