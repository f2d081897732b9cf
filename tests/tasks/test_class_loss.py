"""Label smoothing and class weights, against numbers worked by hand; the scores do not change."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from tasks.class_loss import cross_entropy, example_weights
from tasks.classification import Classification
from training import config as config_lib
from training.config import ConfigError
from training.schema import FinetuneConfig
from training.train_step import total_loss

# p = (1/6, 2/6, 3/6) in the first row, (1/4, 1/2, 1/4) in the second.
LOGITS = jnp.log(jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 1.0]], jnp.float32))
TARGETS = jnp.array([2, 0], jnp.int32)


def test_label_smoothing_spreads_a_share_of_the_target():
    plain = cross_entropy(LOGITS, TARGETS, 0.0)
    np.testing.assert_allclose(plain, [math.log(2), math.log(4)], rtol=1e-6)
    # q = (0.1, 0.1, 0.8) for target 2 and (0.8, 0.1, 0.1) for target 0.
    first = 0.1 * math.log(6) + 0.1 * math.log(3) + 0.8 * math.log(2)
    second = 0.8 * math.log(4) + 0.1 * math.log(2) + 0.1 * math.log(4)
    np.testing.assert_allclose(cross_entropy(LOGITS, TARGETS, 0.3), [first, second], rtol=1e-6)


def test_class_weights_multiply_the_examples_and_the_weight():
    weights = jnp.array([1.0, 1.0, 0.0], jnp.float32)  # the third row is padding
    targets = jnp.array([2, 0, 0], jnp.int32)
    np.testing.assert_array_equal(example_weights(targets, weights, (0.5, 1.0, 4.0)), [4, 0.5, 0])
    np.testing.assert_array_equal(example_weights(targets, weights, ()), weights)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 6 + [1] * 3 + [2])
    found = Classification(class_weights="balanced").weight_of_classes(labels, ("a", "b", "c"))
    assert found == (10 / 18, 10 / 9, 10 / 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(found, expected)
    assert Classification().weight_of_classes(labels, ("a", "b", "c")) == ()
    given = Classification(class_weights=(1, 2.5, 0)).weight_of_classes(labels, ("a", "b", "c"))
    assert given == (1.0, 2.5, 0.0)


class Task:
    def loss_coefficients(self):
        return {"x": 1.0}


@pytest.mark.parametrize(("denominator", "expected"), [(0.25, 8.0), (4.0, 0.5), (0.0, 2.0)])
def test_a_weight_below_one_divides_the_loss_too(denominator, expected):
    sums, weight = {"x": (jnp.float32(2.0), None)}, {"x": jnp.float32(denominator)}
    assert float(total_loss(Task(), sums, weight)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("balancd", "expected 'none', 'balanced', or a tuple"),
        ("(1, -2)", "expected numbers of at least 0"),
        ("('a', 1)", "expected numbers of at least 0"),
        ("(0, 0)", "not all of them 0"),
        ("2", "expected 'none', 'balanced', or a tuple"),
    ],
)
def test_bad_class_weights_are_named(value, expected):
    given = {"init_from": "x", "task": {"class_weights": value}}
    with pytest.raises(ConfigError, match="class_weights") as error:
        config_lib.resolve(FinetuneConfig, given)
    assert expected in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class-loss")
    train.run(tiny_configs.pretraining(folder), str(folder / "pretrained"))
    return folder


def task_of(folder, **options):
    overrides = {f"task__{name}": value for name, value in options.items()}
    given = tiny_configs.finetuning(folder, folder / "pretrained", **overrides)
    config = config_lib.resolve(FinetuneConfig, given)
    from training.run_directory import read_model_config

    model_config = read_model_config(folder / "pretrained")
    tokenizer = str(folder / "pretrained/tokenizer.json")
    return config.task.load(config, model_config, tokenizer, lambda line: None)


def test_the_sums_and_the_denominator_of_a_batch_have_the_weights(folder, monkeypatch):
    task = task_of(folder, label_smoothing=0.2, class_weights=(0.5, 2.0))
    plain = task_of(folder)
    batch = task.train_inputs(0)
    logits = jax.random.normal(jax.random.key(0), (8, 2))
    returned = functools.partial(lambda *_, **__: logits)
    for each in (task, plain):
        monkeypatch.setattr(type(each), "outputs", returned)
    found, without = task.losses(None, {}, batch, None), plain.losses(None, {}, batch, None)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = weight = 0.0
    for row, target in enumerate(batch.targets[:, 0]):
        q = np.full(2, 0.1)
        q[target] += 0.8
        w = (0.5, 2.0)[target]
        total, weight = total - w * float((q * np.log(p[row])).sum()), weight + w
    np.testing.assert_allclose(found["classification"], (total, weight), rtol=1e-5)
    assert float(task.loss_denominators(batch)["classification"]) == weight
    assert found["accuracy"] == without["accuracy"]


def test_a_run_with_both_differs_in_its_updates_and_not_in_how_it_is_scored(folder):
    scores = {}
    for name, options in (
        ("plain", {}),
        ("both", {"label_smoothing": 0.1, "class_weights": "balanced"}),
    ):
        overrides = {f"task__{key}": value for key, value in options.items()}
        config = tiny_configs.finetuning(
            folder, folder / "pretrained", evaluation__select="last", **overrides
        )
        finetune.run(config, str(folder / name))
        scores[name] = [
            x for x in tiny_configs.metrics(folder / name) if x["split"] == "validation"
        ]
    assert scores["both"][0] == scores["plain"][0]  # before the first update
    assert scores["both"][-1]["loss"] != scores["plain"][-1]["loss"]


def test_a_wrong_number_of_class_weights_names_the_classes(folder):
    with pytest.raises(ValueError, match=r"has 3 numbers, but there are 2 classes.*: dry, wet"):
        task_of(folder, class_weights=(1, 2, 3))
