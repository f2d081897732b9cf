"""The algebra of sweeps: products, unions, conditions, samples, and what it refuses."""

import numpy as np
import pytest

from sweeps import choice, fixed, grid, integers, log_uniform, sample, uniform, zip_
from sweeps.algebra import short


def dicts(space):
    return [dict(point) for point in space]


def test_a_grid_has_every_combination_and_the_last_key_changes_first():
    assert dicts(grid(lr=[1e-3, 3e-3], seed=range(2))) == [
        {"optimizer.learning_rate": rate, "seed": seed} for rate in (1e-3, 3e-3) for seed in (0, 1)
    ]


def test_zip_pairs_values_and_a_union_lists_both():
    paired = zip_(lr=[1e-3, 3e-3], batch_size=[16, 16])
    assert dicts(paired + fixed(lr=1.0)) == [
        {"optimizer.learning_rate": 1e-3, "training.batch_size": 16},
        {"optimizer.learning_rate": 3e-3, "training.batch_size": 16},
        {"optimizer.learning_rate": 1.0},
    ]


def test_a_product_has_each_point_with_each():
    space = grid(init=["random", "pretrained"]) * zip_(lr=[1, 2], wd=[3, 4]) * fixed(seed=7)
    assert len(space) == 4 and dicts(space)[2] == {
        "init": "pretrained", "optimizer.learning_rate": 1, "optimizer.weight_decay": 3, "seed": 7
    }  # fmt: skip


def test_dotted_short_and_underscored_keys_are_the_same():
    by_dict = grid({"model.num_layers": [1, 2], "optimizer.learning_rate": [0.1]})
    assert by_dict == grid(model__num_layers=[1, 2], lr=[0.1])
    assert grid({"config.seed": [1]}) == grid(seed=[1])
    assert short("pretrain.optimizer.learning_rate") == "pretrain.lr" and short("seed") == "seed"


def test_a_section_as_a_dict_sets_its_fields_and_tuples_are_values():
    lion = {"name": "lion", "learning_rate": 1e-4}
    space = grid(optimizer=[lion, "adamw"], freeze=[(), ["a", "b"]])
    assert dicts(space)[1] == {
        "optimizer.name": "lion", "optimizer.learning_rate": 1e-4, "freeze": ("a", "b")
    }  # fmt: skip
    assert dicts(space)[2] == {"optimizer": "adamw", "freeze": ()}
    assert dicts(grid(lr=np.array([0.5, 1.0]))) == dicts(grid(lr=[0.5, 1.0]))


def test_conditions_choose_points_and_add_keys():
    space = grid(lr=[1, 2, 3], init=["random", "pretrained"])
    assert len(space.where(lambda c: c.lr < 3 and c["init"] == "random")) == 2
    more = space.when(lambda c: c["optimizer.learning_rate"] == 3, grid(seed=range(4)))
    assert len(more) == 4 + 2 * 4
    assert [("seed" in point) for point in more] == [False] * 4 + [True] * 8
    assert len(more.where(lambda c: c.get("seed", 0) == 0)) == 6


def test_samples_are_reproducible_and_a_larger_one_keeps_the_first_points():
    axes = {"lr": log_uniform(1e-4, 1e-2), "wd": uniform(0, 1), "model__num_layers": integers(2, 4)}
    for method in ("random", "sobol", "halton"):
        few, many = (sample(count, seed=3, method=method, **axes) for count in (5, 12))
        assert many.points[:5] == few.points
        assert sample(5, seed=4, method=method, **axes) != few
        for point in many:
            assert 1e-4 <= point.lr <= 1e-2 and point["model.num_layers"] in (2, 3, 4)
            assert point.lr == float(f"{point.lr:.4g}")
    assert {point.init for point in sample(20, init=choice(["a", "b"]))} == {"a", "b"}


def test_quasi_random_points_fill_each_interval():
    for method in ("sobol", "halton"):
        values = [point.x for point in sample(16, x=uniform(0, 1), method=method)]
        assert np.histogram(values, 8, (0, 1))[0].min() >= 1
    logs = np.log10([point.lr for point in sample(2000, lr=log_uniform(1e-4, 1e-2))])
    assert abs(np.mean(logs) + 3) < 0.05


REFUSED = {
    "lists of other lengths": (lambda: zip_(lr=[1, 2], wd=[1, 2, 3]), "lr has 2, wd has 3"),
    "a key in both factors": (
        lambda: grid(lr=[1]) * fixed(lr=2),
        "both factors of a product set lr",
    ),
    "a key in both forms": (
        lambda: fixed({"optimizer.learning_rate": 1}, lr=2),
        "lr is given twice",
    ),
    "one value": (lambda: grid(lr=1e-3), r"fixed\(lr=...\) sets one value"),
    "text": (lambda: grid(init="random"), "expected a list of values"),
    "a set": (lambda: grid(init={"a", "b"}), "expected a list of values"),
    "no value": (lambda: grid(lr=[]), "is empty"),
    "a value twice": (lambda: grid(lr=[1e-3, 0.001]), "lists 0.001 twice"),
    "None": (lambda: fixed(init=None), "cannot be an override"),
    "not a number": (lambda: grid(lr=[float("nan")]), "finite"),
    "an empty section": (lambda: fixed(optimizer={}), "sets nothing"),
    "another type": (lambda: grid(lr=[1]) * {"seed": [1]}, "is not a space"),
    "a condition of a missing key": (
        lambda: grid(lr=[1], seed=[1]).where(lambda c: c.sead == 1),
        "did you mean 'seed'",
    ),
    "low above high": (lambda: log_uniform(1, 0.1), "the lower first"),
    "a logarithm of 0": (lambda: log_uniform(0, 0.1), "positive"),
    "no distribution": (lambda: sample(3, lr=[1, 2]), "not a distribution"),
    "no count": (lambda: sample(0, lr=uniform(0, 1)), "at least 1"),
    "a method": (lambda: sample(2, lr=uniform(0, 1), method="grid"), "random, sobol, halton"),
    "no key": (lambda: sample(2), "has no key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_space_is_refused_in_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
