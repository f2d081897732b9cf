"""Attention: self- and cross-attention, multi-head and grouped-query, in one module.
models/transformer.py calls it with two ModelInputs, which describe the mask, or, in a decode step, with
the CacheSlots of a cache. attention_kernels.py chooses the kernel; `dot_product_attention` is the dense one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from models.attention_kernels import AttentionSpec, attend, choose_kernel
from models.cache import CACHE, CACHED, CacheSlots, sow_for_cache, unpack
from models.config import ModelConfig
from models.inputs import AttentionMask, ModelInputs, make_attention_mask
from models.layers import MASKED_LOGIT, Dense, Norm, softcap
from models.logical_axes import mesh_axes_size, with_logical_constraint
from models.positions import apply_rope


class Attention(nn.Module):
    """inputs_q[B,T,D] attends to inputs_kv[B,S,D] (self-attention: the same) -> [B,T,D].

    Parameters: query [D,HK], key and value [D,GK], out [HK,D]; H query heads share G key and value
    heads (Ainslie et al. 2023). To bound the scores, qk_norm normalizes each head's query and key
    over K before RoPE (Henry et al. 2020; Dehghani et al. 2023, section 2); heads share the scales
    [K]. With qk_norm_over_heads it normalizes over HK and GK, with scales of these sizes. RoPE also
    applies to cross-attention, with each sequence's own positions: in denoising with
    targets=full, a target token has nearly the same position in the input, which cross-attention can use;
    with targets=spans positions do not correspond. T5 and BART have no positions there.
    """

    config: ModelConfig
    depth: int  # number of layers in the stack; scales the initial `out` kernel
    cross: bool = False
    layer: int = 0  # index in the stack: sliding window and RoPE theta may depend on it

    @nn.compact
    def __call__(
        self,
        inputs_q: jax.Array,
        inputs_kv: jax.Array | None,  # None: the cached cross-attention of a decode step
        query_inputs: ModelInputs,  # [B,T]
        key_inputs: ModelInputs | CacheSlots,  # [B,S]
        bias: jax.Array | None = None,  # float32[H,T,S] (dense) or [H,T+S-1] (by distance)
        deterministic: bool = True,
    ) -> jax.Array:
        config = self.config
        head_dim, num_kv_heads = config.resolved_head_dim, config.resolved_num_kv_heads
        use_bias = config.use_bias or config.use_qkv_bias
        cached = isinstance(key_inputs, CacheSlots)
        q = Dense(config, config.num_heads * head_dim, "query", use_bias=use_bias, name="query")(
            inputs_q
        )
        if config.qk_norm_over_heads:
            q = Norm(config, name="query_norm")(q)
        q = q.reshape(*q.shape[:2], config.num_heads, head_dim)  # [B,T,H,K]
        if config.qk_norm and not config.qk_norm_over_heads:
            q = Norm(config, name="query_norm")(q)
        layer = None if self.cross else self.layer
        if config.positions == "rope":
            q = apply_rope(config, q, query_inputs, layer)
        if cached and self.cross:
            k, v = (unpack(x).transpose(0, 2, 1, 3) for x in self.get_variable(CACHE, CACHED))
            mask = key_inputs.encoder_visible[:, None]
        else:
            k = Dense(config, num_kv_heads * head_dim, use_bias=use_bias, name="key")(inputs_kv)
            v = Dense(config, num_kv_heads * head_dim, use_bias=use_bias, name="value")(inputs_kv)
            if config.qk_norm_over_heads:
                k = Norm(config, name="key_norm")(k)
            k = k.reshape(*k.shape[:2], num_kv_heads, head_dim)  # [B,S,G,K]
            v = v.reshape(*v.shape[:2], num_kv_heads, head_dim)  # [B,S,G,K]
            if config.qk_norm and not config.qk_norm_over_heads:
                k = Norm(config, name="key_norm")(k)
            if config.positions == "rope":
                k = apply_rope(config, k, query_inputs if cached else key_inputs, layer)
            if cached:
                k, v, mask = self.update_cache(k, v, key_inputs)
            else:
                sow_for_cache(self, (k, v))
                window = config.sliding_window_at(self.layer)
                mask_args = () if self.cross else (key_inputs.attention, key_inputs.prefix, window)
                segments = query_inputs.segment_ids, key_inputs.segment_ids
                mask = make_attention_mask(*segments, *mask_args)
        k, v, mask, bias = self.extend_keys(k, v, mask, bias)
        scale_dim = config.attention_scale_dim or head_dim
        scale = scale_dim**-0.5 if config.scale_attention else 1.0
        cap, rate = config.attention_logit_softcap, config.attention_dropout_rate
        dropout = nn.Dropout(rate, deterministic=deterministic, name="dropout")
        kernel = "dense"
        if isinstance(mask, AttentionMask):
            kernel = self.choose_kernel(mask, deterministic)
            mask = mask.dense() if kernel == "dense" else mask
        if kernel == "dense":
            out = dot_product_attention(
                q, k, v, mask, bias=bias, scale=scale, cap=cap, dropout=dropout
            )
        else:
            dropout_rng = None if deterministic or not rate else self.make_rng("dropout")
            out = attend(
                kernel,
                q * scale,
                k,
                v,
                mask,
                bias=bias,
                cap=cap,
                dropout_rate=rate,
                dropout_rng=dropout_rng,
            )
        out = out.reshape(*out.shape[:2], config.num_heads * head_dim)  # [B,T,HK]
        return Dense(config, config.emb_dim, kind="residual", depth=self.depth, name="out")(out)

    def choose_kernel(self, mask: AttentionMask, deterministic: bool = True) -> str:
        """The kernel of this layer."""
        config = self.config
        spec = AttentionSpec(
            mask.query_segment_ids.shape[1],
            mask.key_segment_ids.shape[1] - mask.num_leading,
            mask.attention,
            self.cross,
            has_bias=config.positions == "relative" and not self.cross,
            sliding_window=mask.sliding_window,
            cap=config.attention_logit_softcap,
            has_dropout=not deterministic and config.attention_dropout_rate > 0,
            num_leading=mask.num_leading,
            num_kv_heads=config.resolved_num_kv_heads,
        )
        return choose_kernel(config.attention_kernel, spec)

    def update_cache(self, k: jax.Array, v: jax.Array, cache_slots: CacheSlots) -> tuple:
        """k and v [B,1,G,K] of the next token -> (k and v [B,S,G,K] of all slots, mask bool[B,1,S])."""
        kept = [
            cache_slots.write(old, new)
            for old, new in zip(self.get_variable(CACHE, CACHED), (k, v), strict=True)
        ]
        self.put_variable(CACHE, CACHED, tuple(kept))
        return *(unpack(x).transpose(0, 2, 1, 3) for x in kept), cache_slots.mask(kept[0].shape[-2])

    def extend_keys(self, k, v, mask, bias):
        """A hook: prefix tuning (models/virtual_tokens.py) prepends keys and values and extends mask and
        bias. k, v [B,S,G,K]; returns its arguments."""
        return k, v, mask, bias


def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: float = 1.0,
    cap: float = 0.0,
    dropout: Callable[[jax.Array], jax.Array] = lambda probabilities: probabilities,
) -> jax.Array:
    """softmax(scale q k + bias) v: q[B,T,H,K], k and v [B,S,G,K], mask bool[B,T,S] -> [B,T,H,K].

    If cap is not 0, the scaled scores are capped softly before bias float32[H,T,S] is added. Scores and
    softmax are float32. The head axis is moved before the position axis: matrix products with leading
    batch axes run several times faster than with strided inner axes.
    """
    B, T, H, K = q.shape
    S, G = k.shape[1], k.shape[2]
    # Scaling q instead of the scores saves a pass over [T,S], forward and backward.
    q = with_logical_constraint((q * scale).transpose(0, 2, 1, 3), "BHTK")
    k = with_logical_constraint(k.transpose(0, 2, 1, 3), "BHSK")
    v = with_logical_constraint(v.transpose(0, 2, 1, 3), "BHSK")
    # Consecutive query heads share a key head; fold them into its query positions, unless devices split
    # these.
    folded = (H // G, T) if mesh_axes_size("T") > 1 else (H // G * T,)
    q = q.reshape(B, G, *folded, K)
    scores = jnp.einsum("BG...K,BGSK->BG...S", q, k, preferred_element_type=jnp.float32)
    scores = softcap(scores.reshape(B, H, T, S), cap)
    if bias is not None:
        scores = scores + bias[None]
    scores = jnp.where(mask[:, None], scores, jnp.float32(MASKED_LOGIT))
    probabilities = dropout(jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
    out = jnp.einsum("BG...S,BGSK->BG...K", probabilities.reshape(B, G, *folded, S), v)
    out = with_logical_constraint(out.reshape(B, H, T, K), "BHTK")
    return out.transpose(0, 2, 1, 3)
