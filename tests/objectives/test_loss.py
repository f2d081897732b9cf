"""The chunked cross entropy against a float64 NumPy reference: values, gradients, masks.
The reference follows the definition and uses nothing of objectives/loss.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives.loss as loss_module
from objectives.loss import chunked_cross_entropy, number_of_chunks, token_losses

ROWS, POSITIONS, DIM, PADDED, VOCAB_SIZE = 3, 10, 8, 128, 100


def example(seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(ROWS, POSITIONS, DIM)).astype(np.float32)
    table = random.normal(size=(PADDED, DIM)).astype(np.float32)
    bias = random.normal(size=PADDED).astype(np.float32)
    bias[VOCAB_SIZE:] = 50.0  # padded ids would win if they were not masked
    targets = random.integers(0, VOCAB_SIZE, (ROWS, POSITIONS)).astype(np.int32)
    weights = random.uniform(size=(ROWS, POSITIONS)).astype(np.float32)
    weights[random.uniform(size=weights.shape) < 0.3] = 0.0
    return features, table, bias, targets, weights


def reference(features, table, bias, targets, weights, z_loss=0.0, cap=0.0, smoothing=0.0):
    """float64: (sum, weight, correct) and the gradients of the sum."""
    x, w = features.astype(np.float64), table[:VOCAB_SIZE].astype(np.float64)
    logits, slope = x @ w.T + bias[:VOCAB_SIZE], 1.0
    if cap:
        logits, slope = cap * np.tanh(logits / cap), 1 / np.cosh(logits / cap) ** 2
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    q = (1 - smoothing) * np.eye(VOCAB_SIZE)[targets] + smoothing / VOCAB_SIZE
    log_z = np.log(np.exp(logits).sum(-1))
    losses = -(q * np.log(p)).sum(-1) + z_loss * log_z**2
    d_logits = (p - q + 2 * z_loss * (log_z[..., None] * p)) * weights[..., None] * slope
    d_table = np.zeros(table.shape)
    d_table[:VOCAB_SIZE] = np.einsum("bnv,bne->ve", d_logits, x)
    d_bias = np.zeros(bias.shape)
    d_bias[:VOCAB_SIZE] = d_logits.sum((0, 1))
    hits = logits.argmax(-1) == targets
    sums = (losses * weights).sum(), weights.sum(), (hits * weights).sum()
    return sums, (d_logits @ w, d_table, d_bias, losses)


@pytest.fixture(params=[1, 3, 10], ids="{}_chunks".format)
def chunks(request, monkeypatch):
    """With 3 chunks of 10 positions the last chunk is padded."""
    monkeypatch.setattr(loss_module, "number_of_chunks", lambda *_: request.param)


def with_gradients(features, table, bias, targets, weights, z_loss=0.0, cap=0.0, smoothing=0.0):
    def total(features, table, bias, weights):
        static = VOCAB_SIZE, z_loss, cap, smoothing
        out = chunked_cross_entropy(features, table, bias, targets, weights, *static)
        return 3.0 * out[0], out

    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))(
            features, table, bias, weights
        )


@pytest.mark.parametrize(
    ("z_loss", "cap", "smoothing"),
    [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.3, 2.5, 0.0), (0.3, 0.0, 0.1), (0.3, 2.5, 0.1)],
)
def test_value_and_gradients_equal_the_reference(chunks, z_loss, cap, smoothing):
    arrays = example()
    gradients, sums = with_gradients(*map(jnp.asarray, arrays), z_loss, cap, smoothing)
    expected_sums, expected = reference(*arrays, z_loss, cap, smoothing)
    if cap:  # the larger logits are capped
        assert expected_sums[0] < 0.8 * reference(*arrays, z_loss)[0][0]
    assert z_loss == 0.0 or cap or expected_sums[0] > reference(*arrays)[0][0] + 1
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for actual, desired in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, 3 * desired, atol=2e-5 * np.abs(desired).max())


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_the_value_without_differentiation_is_the_same(chunks, z_loss):
    arrays = example(1)
    sums = jax.jit(chunked_cross_entropy, static_argnums=(5, 6))(*arrays, VOCAB_SIZE, z_loss)
    np.testing.assert_allclose(sums, reference(*arrays, z_loss)[0], rtol=1e-5)


def test_the_losses_of_single_tokens_are_those_of_the_sum(chunks):
    features, table, bias, targets, weights = example(1)
    losses, hits = jax.jit(token_losses, static_argnums=4)(
        features, table, bias, targets, VOCAB_SIZE
    )
    (total, _, correct), (*_, expected) = reference(features, table, bias, targets, weights)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((losses * weights).sum(), total, rtol=1e-5)
    np.testing.assert_allclose((hits * weights).sum(), correct, rtol=1e-6)


def test_a_zero_z_loss_adds_no_operation():
    """With 0 the program is unchanged; otherwise it has no additional product or exponential."""
    arrays = [jnp.asarray(x) for x in example()]

    def program(*z_loss):
        def total(features, table, bias):
            static = (*arrays[3:], VOCAB_SIZE, *z_loss)
            return chunked_cross_entropy(features, table, bias, *static)[0]

        return str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(*arrays[:3]))

    assert program(0.0) == program(0.0, 0.0) == program()
    assert program(0.3) != program() != program(0.0, 0.1)
    for operation in ("dot_general", " exp "):
        assert program(0.3).count(operation) == program().count(operation) > 0


def test_reverse_over_reverse_second_derivatives_equal_those_of_the_direct_loss(chunks):
    """The custom gradient has no forward mode; a Hessian-vector product needs none."""
    features, table, bias, targets, weights = map(jnp.asarray, example(6))

    def fused(x):
        out = chunked_cross_entropy(x, table, bias, targets, weights, VOCAB_SIZE, 0.1)
        return out[0] / out[1]

    def direct(x):
        logits = jnp.einsum("BNE,VE->BNV", x, table[:VOCAB_SIZE]) + bias[None, None, :VOCAB_SIZE]
        log_z = jax.nn.logsumexp(logits, axis=-1)
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return ((log_z - target + 0.1 * log_z**2) * weights).sum() / weights.sum()

    vector = jnp.cos(features * 7)
    actual, desired = (
        jax.jit(jax.grad(lambda x, f=f: (jax.grad(f)(x) * vector).sum()))(features)
        for f in (fused, direct)
    )
    np.testing.assert_allclose(actual, desired, atol=1e-4 * np.abs(desired).max())


def test_padded_ids_and_targets_of_weight_zero_get_no_gradient(chunks):
    features, table, bias, targets, weights = example(2)
    targets[weights == 0] = PADDED - 1  # any id is allowed
    gradients, sums = with_gradients(*map(jnp.asarray, (features, table, bias, targets, weights)))
    assert all(np.isfinite(x).all() for x in (*gradients, *sums))
    assert not np.asarray(gradients[1])[VOCAB_SIZE:].any()
    assert not np.asarray(gradients[2])[VOCAB_SIZE:].any()
    assert not np.asarray(gradients[0])[weights == 0].any()
    assert np.asarray(gradients[0])[weights > 0].any(-1).all()


def test_batch_axis_and_bias_are_optional():
    features, table, bias, targets, weights = example(3)
    with jax.numpy_dtype_promotion("strict"):
        flat = chunked_cross_entropy(
            jnp.asarray(features[0]), table, None, targets[0], weights[0], VOCAB_SIZE
        )
    expected, _ = reference(features[:1], table, 0 * bias, targets[:1], weights[:1])
    np.testing.assert_allclose(flat, expected, rtol=1e-5)


def test_logits_of_bfloat16_features_are_float32(chunks):
    features, table, bias, targets, weights = example(4)
    low = jnp.asarray(features, jnp.bfloat16)
    gradients, sums = with_gradients(low, *map(jnp.asarray, (table, bias, targets, weights)))
    rounded = np.asarray(jnp.asarray(table, jnp.bfloat16).astype(jnp.float32))
    expected_sums, expected = reference(
        np.asarray(low.astype(jnp.float32)), rounded, bias, targets, weights
    )
    assert [x.dtype for x in gradients] == [jnp.bfloat16, *[jnp.float32] * 3]
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)
    for actual, desired in zip(gradients, expected, strict=True):
        limit = 0.02 * np.abs(desired).max() * 3
        np.testing.assert_allclose(np.asarray(actual, np.float32), 3 * desired, atol=limit)


def test_of_equally_likely_tokens_the_first_is_the_prediction():
    features, table = jnp.zeros((1, 2, DIM)), jnp.ones((PADDED, DIM))
    targets, weights = jnp.array([[0, 5]], jnp.int32), jnp.ones((1, 2))
    total, weight, correct = chunked_cross_entropy(features, table, None, targets, weights, 100)
    assert (float(weight), float(correct)) == (2.0, 1.0)
    np.testing.assert_allclose(total, 2 * np.log(100), rtol=1e-6)


def test_the_full_logits_never_exist():
    rows, positions, dim, vocab_size = 8, 512, 16, 8192
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((rows, positions, dim), jnp.float32),
            ((vocab_size, dim), jnp.float32),
            ((rows, positions), jnp.int32),
            ((rows, positions), jnp.float32),
        )
    ]
    assert number_of_chunks(rows, positions, vocab_size) == 8
    step = jax.jit(
        jax.grad(lambda f, w, t, m: chunked_cross_entropy(f, w, None, t, m, vocab_size)[0], (0, 1))
    )
    memory = step.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * rows * positions * vocab_size / 2


@pytest.mark.parametrize("axes", [("data",), ("data", "tensor")])
def test_gradients_on_a_mesh_are_the_same_and_the_batch_stays_sharded(axes, monkeypatch):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices: XLA_FLAGS=--xla_force_host_platform_device_count=4")
    monkeypatch.setattr(loss_module, "number_of_chunks", lambda *_: 2)
    P = jax.sharding.PartitionSpec
    shape = (4,) if len(axes) == 1 else (2, 2)
    types = (jax.sharding.AxisType.Auto,) * len(axes)
    mesh = jax.make_mesh(shape, axes, axis_types=types)
    features, table, bias, targets, weights = (np.concatenate([x] * 4) for x in example(5))
    table, bias = table[:PADDED], bias[:PADDED]
    rows, tokens = P("data"), P("tensor") if "tensor" in axes else P()
    with jax.set_mesh(mesh):
        put = [
            jax.device_put(x, jax.NamedSharding(mesh, spec))
            for x, spec in zip(
                (features, table, bias, targets, weights),
                (rows, tokens, tokens, rows, rows),
                strict=True,
            )
        ]
        step = jax.jit(
            jax.grad(
                lambda f, w, b, t, m: chunked_cross_entropy(f, w, b, t, m, VOCAB_SIZE)[0], (0, 1)
            )
        )
        gradients = step(*put)
        text = step.lower(*put).compile().as_text()
    _, expected = reference(features, table, bias, targets, weights)
    for actual, desired in zip(gradients, expected[:2], strict=True):
        np.testing.assert_allclose(actual, desired, atol=2e-5 * np.abs(desired).max())
    # A gathered batch would appear as logits of all 12 rows (or all 128 tokens) on one device.
    local = (
        len(features) // shape[0],
        POSITIONS // 2,
        PADDED // (shape[1] if len(axes) > 1 else 1),
    )
    assert f"f32[{','.join(map(str, local))}]" in text
    for whole in ((len(features), *local[1:]), (local[0], local[1], PADDED)):
        assert whole == local or f"f32[{','.join(map(str, whole))}]" not in text


def test_inconsistent_shapes_are_rejected():
    features, table, bias, targets, weights = example()
    with pytest.raises(ValueError, match="expected .B,N,E."):
        chunked_cross_entropy(features, table, bias, targets[:, :4], weights, VOCAB_SIZE)
    with pytest.raises(ValueError, match="vocab_size 129"):
        chunked_cross_entropy(features, table, bias, targets, weights, 129)
