"""The kernels of attention: equal to the dense one in values and gradients, and linear in memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

import models
from models import attention_kernels, chunked_attention
from models.attention import dot_product_attention
from models.attention_kernels import AttentionSpec, attend, choose_kernel, why_unsupported
from models.inputs import make_attention_mask

RANDOM = np.random.default_rng(0)
ROWS, GROUPS, SIZE = 2, 2, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(chunked_attention, "BLOCK", 16)


def random(*shape):
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def segments(length, *ends):
    """int32[ROWS, length]: segments with these ends; padding after the last."""
    ids = np.zeros(length, np.int32)
    for number, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        ids[start:end] = number + 1
    return jnp.asarray(np.stack([ids] * ROWS))


def compare(kernel, mask, heads=4, bias=False, cap=0.0, size=SIZE, **options):
    """Asserts that `kernel` and dense attention have the same outputs and gradients."""
    T, S = mask.query_segment_ids.shape[1], mask.key_segment_ids.shape[1]
    arrays = [random(ROWS, T, heads, size), *(random(ROWS, S, GROUPS, size) for _ in range(2))]
    keys = S - mask.num_leading
    if bias:
        arrays.append(random(heads, T + keys - 1))
    seen = np.asarray(mask.dense()).any(-1)[:, :, None, None]
    weights = jnp.where(seen, random(ROWS, T, heads, size), 0.0)

    def dense(q, k, v, by_distance=None):
        whole = None
        if by_distance is not None:
            distances = np.arange(keys)[None] - np.arange(T)[:, None] + T - 1
            whole = jnp.pad(by_distance[:, distances], ((0, 0), (0, 0), (mask.num_leading, 0)))
        return dot_product_attention(q, k, v, mask.dense(), bias=whole, cap=cap)

    def fused(q, k, v, by_distance=None):
        return attend(kernel, q, k, v, mask, bias=by_distance, cap=cap, **options)

    numbers = tuple(range(len(arrays)))
    found, expected = (
        jax.jit(jax.value_and_grad(lambda *x, f=f: (f(*x) * weights).sum(), numbers))(*arrays)
        for f in (fused, dense)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("length", [48, 37])
@pytest.mark.parametrize(
    "options",
    [{}, {"sliding_window": 5}, {"bias": True, "cap": 2.0}, {"leading": 3, "bias": True},
     {"leading": 20, "sliding_window": 9}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("attention", ["causal", "bidirectional", "prefix"])
def test_chunked_attention_equals_dense_attention(attention, options, length):
    options = dict(options)
    ids = segments(length, length // 3, length - 2)
    prefix = jnp.asarray(RANDOM.random((ROWS, length)) < 0.3) if attention == "prefix" else None
    mask = make_attention_mask(ids, ids, attention, prefix, options.pop("sliding_window", 0))
    if leading := options.pop("leading", 0):
        mask = mask.with_leading(leading)
    with jax.numpy_dtype_promotion("strict"):
        compare("chunked", mask, **options)


@pytest.mark.parametrize("lengths", [(21, 50), (50, 21)])
def test_chunked_cross_attention_equals_dense_attention(lengths):
    T, S = lengths
    compare("chunked", make_attention_mask(segments(T, T // 2, T), segments(S, S // 3, S - 1)))


def test_blocks_that_no_query_reaches_are_not_visited():
    ids = segments(64, 64)
    pairs = {
        (attention, window): len(chunked_attention.reachable_blocks(
            make_attention_mask(ids, ids, attention, None, window), 64, 64, 16))
        for attention, window in (("bidirectional", 0), ("causal", 0), ("causal", 4), ("bidirectional", 4))
    }  # fmt: skip
    assert list(pairs.values()) == [16, 10, 7, 10]


def test_dropout_of_chunked_attention_drops_its_share_and_is_differentiated():
    ids = segments(48, 48)
    mask, key = make_attention_mask(ids, ids), jax.random.key(1)
    q, k = jnp.zeros((ROWS, 48, 4, SIZE)), random(ROWS, 48, GROUPS, SIZE)

    def out(v, key=key):
        return attend("chunked", q, k, v, mask, dropout_rate=0.25, dropout_rng=key)

    # q is 0: each kept probability is 1 / 48 / 0.75, so ones give the kept share over 0.75.
    shares = np.asarray(out(jnp.ones_like(k)))[..., 0] * 0.75
    assert abs(shares.mean() - 0.75) < 3 * np.sqrt(0.75 * 0.25 / shares.size / 48)
    assert (
        shares[0].tolist() != shares[1].tolist() and shares[0, 0].tolist() != shares[0, 1].tolist()
    )
    v, step = random(ROWS, 48, GROUPS, SIZE), random(ROWS, 48, GROUPS, SIZE)
    w = random(ROWS, 48, 4, SIZE)
    gradient = jax.grad(lambda v: (out(v) * w).sum())(v)
    np.testing.assert_allclose((gradient * step).sum(), (out(step) * w).sum(), rtol=1e-4)
    # The gradient of the scores, by a finite difference.
    q = 0.3 * random(ROWS, 48, 4, SIZE)

    def loss(q):
        found = attend("chunked", q, k, v, mask, dropout_rate=0.25, dropout_rng=key)
        return (found * w).sum()

    d = random(*q.shape)
    slope = (loss(q + 1e-2 * d) - loss(q - 1e-2 * d)) / 2e-2
    np.testing.assert_allclose((jax.grad(loss)(q) * d).sum(), slope, rtol=1e-2)


AXES = ("data", "fsdp", "tensor", "sequence")
RULES = (("B", ("data", "fsdp")), ("H", "tensor"), ("T", "sequence"))


@pytest.mark.parametrize(
    ("sizes", "attention", "window", "splits_queries"),
    [
        ((2, 1, 2, 1), "causal", 0, False),
        ((2, 1, 1, 2), "causal", 9, False),  # two key heads over two devices
        ((1, 1, 2, 2), "causal", 0, True),
        ((1, 1, 2, 2), "bidirectional", 9, True),
        ((1, 1, 2, 2), "prefix", 0, True),
    ],
)
def test_a_mesh_gives_the_same_values_gradients_and_dropout(
    sizes, attention, window, splits_queries
):
    ids, length = segments(64, 20, 62), 64
    prefix = jnp.asarray(RANDOM.random((ROWS, length)) < 0.3) if attention == "prefix" else None
    mask = make_attention_mask(ids, ids, attention, prefix, window)
    arrays = [
        random(ROWS, length, 4, SIZE),
        *(random(ROWS, length, GROUPS, SIZE) for _ in range(2)),
    ]
    bias = random(4, 2 * length - 1)

    def run(q, k, v, bias):
        return attend(
            "chunked", q, k, v, mask, bias=bias, dropout_rate=0.2, dropout_rng=jax.random.key(0)
        ).sum()

    step = jax.value_and_grad(run, (0, 1, 2, 3))
    expected = jax.jit(step)(*arrays, bias)
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        assert bool(attention_kernels.split_axes(GROUPS, length)[1]) is splits_queries
        program = jax.jit(step).lower(*arrays, bias).compile()
        found = program(*arrays, bias)
        spec = AttentionSpec(256, 256, "causal", platform="tpu", num_kv_heads=GROUPS)
        assert (
            why_unsupported("splash", spec).startswith("it needs whole rows, but the mesh")
            is splits_queries
        )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)
    loops = re.findall(r"while\([^\n]*", program.as_text())
    assert loops and "all-gather" not in program.as_text()


def test_replicas_on_a_mesh_attend_as_each_alone():
    mask = make_attention_mask(segments(48, 20, 46), segments(48, 20, 46), "causal")
    k = random(ROWS, 48, GROUPS, SIZE)
    queries = random(2, ROWS, 48, 4, SIZE)

    def run(q):
        return jax.value_and_grad(lambda q: attend("chunked", q, k, k, mask).sum())(q)

    mesh = jax.make_mesh((2, 1, 1, 1, 2), ("replica", *AXES), axis_types=(AxisType.Auto,) * 5)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        found = jax.jit(jax.vmap(run, spmd_axis_name="replica"))(queries)
    for number in range(2):
        for ours, theirs in zip(found, jax.jit(run)(queries[number]), strict=True):
            np.testing.assert_allclose(ours[number], theirs, rtol=1e-4, atol=1e-5)


def test_parts_of_a_row_that_are_no_blocks_have_dropout_of_their_own():
    ids = segments(48, 48)
    mask, ones = make_attention_mask(ids, ids), jnp.ones((ROWS, 48, 1, SIZE))
    mesh = jax.make_mesh((1, 1, 1, 4), AXES, axis_types=(AxisType.Auto,) * 4)  # 12 queries on each
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        key = jax.random.key(1)
        run = jax.jit(
            lambda q: attend("chunked", q, ones, ones, mask, dropout_rate=0.5, dropout_rng=key)
        )
        parts = np.asarray(run(0 * ones))[0, :, 0, 0].reshape(4, 12)
    assert len({tuple(part) for part in parts}) == 4


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_no_array_of_a_training_step_has_queries_times_keys_elements(architecture, monkeypatch):
    """Gradients of a model that reads 1,024 tokens, with T5's relative bias in the encoder-decoder."""
    monkeypatch.setattr(chunked_attention, "BLOCK", 128)
    length = 1024
    config = models.ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=16, num_heads=2, mlp_dim=16,
        vocab_size=64, max_length=length,
        positions="relative" if architecture == "encoder_decoder" else "rope",
    )  # fmt: skip

    def largest(kernel):
        model = models.build(models.ModelConfig(**{**vars(config), "attention_kernel": kernel}))
        ones = jnp.ones((1, length), jnp.int32)
        attention = "causal" if architecture == "decoder" else "bidirectional"
        inputs = models.make_inputs(ones, ones, attention)
        both = models.make_inputs(ones, ones, "causal") if "_" in architecture else None
        params = jax.eval_shape(
            lambda: model.init(jax.random.key(0), inputs, both, method="init_all")
        )

        def loss(params):
            return (model.apply(params, inputs, both) ** 2).mean()

        text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
        shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
        return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)

    assert largest("auto") < length * length / 4
    assert largest("dense") >= length * length


def test_the_choice_of_a_kernel():
    assert choose_kernel("auto", AttentionSpec(128, 128)) == "dense"
    assert choose_kernel("auto", AttentionSpec(1, 100_000)) == "dense"  # a decode step
    assert choose_kernel("auto", AttentionSpec(512, 512)) == "chunked"
    assert choose_kernel("auto", AttentionSpec(2048, 2048, platform="tpu")) == "splash"
    assert (
        choose_kernel("auto", AttentionSpec(2048, 2000, platform="tpu", is_cross=True)) == "chunked"
    )
    assert choose_kernel("auto", AttentionSpec(2048, 2048, platform="gpu")) == "triton"
    assert choose_kernel("auto", AttentionSpec(2048, 2048, "prefix", platform="gpu")) == "chunked"
    assert choose_kernel("dense", AttentionSpec(2048, 2048)) == "dense"
    for spec, reason in (
        (AttentionSpec(256, 256), "it runs on a TPU, not on a CPU"),
        (
            AttentionSpec(256, 256, platform="tpu", has_bias=True),
            "it does not support relative bias",
        ),
        (
            AttentionSpec(256, 200, platform="tpu"),
            "it needs lengths that are multiples of 128, not 256 and 200",
        ),
    ):
        assert why_unsupported("splash", spec) == reason
        with pytest.raises(ValueError, match="set model.attention_kernel=auto, or chunked"):
            choose_kernel("splash", spec)


@pytest.mark.parametrize(
    ("attention", "window", "cap"),
    [
        ("causal", 0, 0.0),
        ("bidirectional", 0, 2.0),
        ("causal", 40, 0.0),
        ("bidirectional", 40, 0.0),
    ],
)
def test_splash_attention_equals_dense_attention(attention, window, cap):
    ids = segments(256, 100, 256)
    assert not why_unsupported(
        "splash", AttentionSpec(256, 256, attention, sliding_window=window, cap=cap, platform="tpu")
    )
    mask = make_attention_mask(ids, ids, attention, None, window)
    compare("splash", mask, cap=cap, size=64, interpret=True)


def test_splash_cross_attention_equals_dense_attention():
    mask = make_attention_mask(segments(128, 60, 128), segments(256, 100, 256))
    compare("splash", mask, size=64, interpret=True)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_triton_attention_equals_dense_attention(attention):
    ids = segments(256, 100, 256)
    assert not why_unsupported("triton", AttentionSpec(256, 256, attention, platform="gpu"))
    compare("triton", make_attention_mask(ids, ids, attention), size=16, interpret=True)


def test_the_page_has_the_table_of_kernels():
    import pathlib

    page = (pathlib.Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for row in attention_kernels.kernel_table():
        assert f"| {' | '.join(row)} |" in page


def test_the_described_kernels_have_the_positions_and_keys_of_an_adapter():
    config = models.ModelConfig(architecture="decoder", num_layers=1, attention_kernel="splash")
    tokens = jnp.zeros((1, 512), jnp.int32)
    inputs = models.make_inputs(tokens, jnp.ones_like(tokens), "causal")
    describe_attention = models.describe_attention
    assert "splash (512 x 512)" in describe_attention(config, inputs, platform="tpu")
    with pytest.raises(ValueError, match="not 532 and 532"):
        describe_attention(config, inputs, platform="tpu", num_added=20)
    with pytest.raises(ValueError, match="prefix tuning"):
        describe_attention(config, inputs, platform="tpu", num_leading=20)
