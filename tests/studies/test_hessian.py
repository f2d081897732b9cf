"""Hessian-vector products, trace and eigenvalues against explicit matrices, also those of the models."""

import jax
import jax.numpy as jnp
import labeled_tasks
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from studies import hessian
from training.param_rules import flatten_params, merge_params, split_params
from training.train_step import total_loss

RANDOM = np.random.default_rng(0)


def symmetric(eigenvalues):
    """(product with a matrix that has these eigenvalues, the matrix float64[n,n])."""
    basis = np.linalg.qr(RANDOM.standard_normal((len(eigenvalues),) * 2))[0]
    matrix = basis @ np.diag(eigenvalues) @ basis.T
    return (lambda v: (matrix @ v).astype(np.float32)), matrix


def test_the_trace_of_a_diagonal_matrix_is_exact_and_others_are_within_the_error():
    diagonal = np.array([4.0, -1.0, 0.5, 2.0], np.float32)
    found = hessian.estimate_trace(lambda v: diagonal * v, 4, probes=3)
    assert (found.mean, found.stderr, found.count) == (5.5, 0.0, 3)
    product, matrix = symmetric(RANDOM.standard_normal(30))
    found = hessian.estimate_trace(product, 30, probes=400)
    assert abs(found.mean - np.trace(matrix)) < 3 * found.stderr
    # The variance of v H v is twice the sum of the squares beside the diagonal.
    off_diagonal = matrix - np.diag(np.diag(matrix))
    assert found.std == pytest.approx(np.sqrt(2 * np.square(off_diagonal).sum()), rel=0.15)


def test_lanczos_finds_the_ends_of_the_spectrum():
    eigenvalues = np.sort(RANDOM.standard_normal(40))
    eigenvalues[-1] = 5.0
    product, matrix = symmetric(eigenvalues)
    few, all_of_them = (hessian.lanczos(product, 40, steps) for steps in (8, 40))
    assert few.largest == pytest.approx(5.0, abs=few.residual + 1e-5)
    assert few.largest < 5.0 + 1e-5 and 1e-7 < few.residual < 0.5 and len(few.ritz_values) == 8
    np.testing.assert_allclose(all_of_them.ritz_values, np.linalg.eigvalsh(matrix), atol=1e-4)
    assert (all_of_them.largest, all_of_them.smallest) == (
        all_of_them.ritz_values[-1], all_of_them.ritz_values[0],
    )  # fmt: skip
    assert all_of_them.residual < 1e-4


def test_lanczos_stops_where_nothing_is_left():
    found = hessian.lanczos(lambda v: 3 * v, 10, steps=6)
    assert found.ritz_values == pytest.approx([3.0]) and found.residual < 1e-5
    assert hessian.lanczos(lambda v: 0 * v, 10, steps=6).largest == 0.0


def test_the_product_is_that_of_the_hessian_of_a_known_function():
    def loss(x):  # at (1, 2): Hessian [[6 x, 1], [1, 12 y^2]] = [[6, 1], [1, 48]]
        return x["a"] ** 3 + x["a"] * x["b"] + x["b"] ** 4

    at = {"a": jnp.float32(1), "b": jnp.float32(2)}
    found = hessian.hessian_product(loss, at, {"a": jnp.float32(1), "b": jnp.float32(-1)})
    assert (float(found["a"]), float(found["b"])) == (5.0, -47.0)


# A task, and the attention kernel: dense layers, chunked attention and the chunked cross entropy have
# gradients of their own.
CASES = {
    "encoder": ("classification", "dense"),
    "decoder": ("seq2seq", "chunked"),
    "encoder_decoder": ("seq2seq", "dense"),
}
TRAINED = ("query/kernel", "in/bias", "final_norm/scale", "output/kernel")


@pytest.mark.parametrize("architecture", CASES)
def test_products_of_a_model_equal_its_explicit_hessian(architecture, tmp_path):
    name, kernel = CASES[architecture]
    texts = labeled_tasks.random_texts(8)
    rows = [
        {
            "text": text,
            "label": "ab"[len(text) % 2],
            "source": text,
            "target": text[::-1][:2] + text,
        }
        for text in texts
    ]
    model = labeled_tasks.model_config(
        architecture, emb_dim=8, num_heads=2, mlp_dim=16, attention_kernel=kernel
    )
    options = {"max_target_len": 8} if name == "seq2seq" else {}
    task = labeled_tasks.load(tmp_path, name, model, {"train": rows, "validation": rows}, **options)
    model, params = labeled_tasks.start(task)
    frozen = {path for path in flatten_params(params) if not path.endswith(TRAINED)}
    trained, frozen = split_params(params, frozen)
    flat, unravel = ravel_pytree(trained)
    batch = task.batch("train", np.arange(8))
    denominators = task.loss_denominators(batch)

    def loss(trained):
        sums = task.losses(model, merge_params(trained, frozen), batch, None)
        return total_loss(task, sums, denominators)

    @jax.jit
    def product(vector):
        return ravel_pytree(hessian.hessian_product(loss, trained, unravel(vector)))[0]

    # Central differences of the gradient, each column from two points.
    gradient = jax.jit(lambda x: ravel_pytree(jax.grad(loss)(unravel(x)))[0])
    step = 1e-2
    explicit = np.array([
        (gradient(flat + step * unit) - gradient(flat - step * unit)) / (2 * step)
        for unit in np.eye(flat.size, dtype=np.float32)
    ])  # fmt: skip
    columns = np.array([product(unit) for unit in np.eye(flat.size, dtype=np.float32)])
    scale = np.abs(columns).max()
    assert scale > 1e-3
    np.testing.assert_allclose(columns, explicit, atol=0.01 * scale)
    np.testing.assert_allclose(columns, columns.T, atol=1e-5 * scale)
    eigenvalues = np.linalg.eigvalsh(columns.astype(np.float64))
    found = hessian.lanczos(product, flat.size, 30)
    assert found.largest == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert found.smallest == pytest.approx(eigenvalues[0], rel=0.05)
    trace = hessian.estimate_trace(product, flat.size, probes=40)
    assert abs(trace.mean - eigenvalues.sum()) < 3 * trace.stderr
