"""Configuration: every wrong value is one line that names it and the remedy; every right one typed."""

import dataclasses

import ml_collections
import pytest

from training import config as configs
from training import durations
from training.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    layers: int = dataclasses.field(default=2, metadata={"min": 1, "max": 100})
    rate: float = dataclasses.field(default=0.1, metadata={"min": 0.0})
    kind: str = dataclasses.field(default="post", metadata={"choices": ("post", "pre")})
    tied: bool = True
    rules: tuple = ()

    def __post_init__(self):
        if self.layers == 13:
            raise ValueError("layers=13 is unlucky; choose 12")


@dataclasses.dataclass(frozen=True)
class First:
    name = "first"
    density: float = 0.15


@dataclasses.dataclass(frozen=True)
class Second:
    name = "second"
    span: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    model: Inner
    objective: First = dataclasses.field(
        metadata={"variants": {"first": First, "second": Second}, "default": "first"}
    )
    source: str = "a"


def resolve(**leaves):
    return configs.resolve(Outer, ml_collections.ConfigDict(leaves))


def test_an_empty_config_is_all_defaults():
    assert resolve() == Outer(Inner(), First())


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("1e1", 10), (7, 7), (8.0, 8), ("99", 99)])
def test_integers_come_from_text_and_from_whole_floats(text, value):
    layers = resolve(model={"layers": text}).model.layers
    assert layers == value and isinstance(layers, int)


def test_tuples_and_booleans_come_from_text():
    inner = resolve(model={"rules": "(('.*', 1.0),)", "tied": "False"}).model
    assert inner.rules == ((".*", 1.0),)
    assert inner.tied is False


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"modle": {}}, "unknown key config.modle; did you mean config.model?"),
        (
            {"model": {"layer": 3}},
            "unknown key config.model.layer; did you mean config.model.layers?",
        ),
        (
            {"model": {"layers": "four"}},
            "config.model.layers='four' has the wrong type (str); expected an",
        ),
        ({"model": {"layers": "1.5"}}, "config.model.layers='1.5' has the wrong type"),
        ({"model": {"layers": True}}, "config.model.layers=True has the wrong type"),
        (
            {"model": {"layers": 0}},
            "config.model.layers=0 is out of range; expected between 1 and 100",
        ),
        (
            {"model": {"rate": -1.0}},
            "config.model.rate=-1.0 is out of range; expected at least 0.0",
        ),
        ({"model": {"rate": "nan"}}, "config.model.rate='nan' has the wrong type"),
        (
            {"model": {"kind": "prae"}},
            "config.model.kind='prae' is not a choice; did you mean 'pre'?",
        ),
        (
            {"model": {"tied": "yes"}},
            "config.model.tied='yes' has the wrong type (str); expected true or",
        ),
        ({"model": {"rules": "(1,"}}, "expected a tuple"),
        ({"model": 3}, "config.model=3 is a section; set one of its keys, layers, rate, kind"),
        ({"model": {"layers": 13}}, "config.model: layers=13 is unlucky; choose 12"),
        ({"objective": {"name": "secnd"}}, "did you mean 'second'?"),
        ({"objective": {"name": "second", "density": 0.1}}, "unknown key config.objective.density"),
        ({"source": 3}, "config.source=3 has the wrong type (int); expected text"),
    ],
)
def test_a_wrong_leaf_is_one_line_with_the_value_and_the_remedy(leaves, words):
    with pytest.raises(ConfigError) as error:
        resolve(**leaves)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_survives_its_own_dict():
    config = resolve(model={"layers": 5}, objective={"name": "second", "span": 9})
    again = configs.resolve(Outer, configs.to_dict(config))
    assert again == config
    assert configs.to_dict(config)["objective"] == {"name": "second", "span": 9}


def test_difference_names_each_leaf_and_sees_no_difference_in_json():
    old = {"a": {"b": 1, "c": (1, 2)}, "d": 2}
    assert configs.difference(old, {"a": {"b": 1, "c": [1, 2]}, "d": 2}) == []
    assert configs.difference(old, {"a": {"b": 3, "c": (1, 2)}}) == [
        ("a.b", 1, 3),
        ("d", 2, "(absent)"),
    ]


def test_overrides_win_over_the_file_and_may_name_new_leaves():
    given = ml_collections.ConfigDict({"model": {"layers": 3}})
    config = configs.override(given, [("model.layers", "4"), ("objective.density", "0.3")])
    resolved = configs.resolve(Outer, config)
    assert resolved.model.layers == 4
    assert resolved.objective.density == 0.3
    with pytest.raises(ConfigError, match="'layers' is a leaf"):
        configs.override(given, [("model.layers.x", "4")])


def test_a_section_that_gets_another_name_begins_with_that_ones_defaults(caplog):
    caplog.set_level("INFO", "triptych")
    given = {"objective": {"name": "bert_style", "noise_density": 0.5}, "model": {"layers": 3}}
    names = [("objective.targets", "full"), ("objective.name", "mass_style")]
    assert configs.override(given, names).to_dict() == {
        "objective": {"name": "mass_style", "targets": "full"},
        "model": {"layers": 3},
    }
    assert "sets for bert_style is left out, noise_density" in caplog.text
    same = configs.override(given, [("objective.name", "bert_style"), ("model.layers", "4")])
    assert same.objective.noise_density == 0.5


def test_a_missing_config_file_names_the_nearest():
    with pytest.raises(ConfigError, match="'configs/decodr.py' does not exist.*configs/decoder.py"):
        configs.load_file("configs/decodr.py")


CLOCK = durations.Clock(batch=32, tokens=4096, epoch=3200, total=500)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("2000 steps", 2000), ("1 step", 1), ("8192 tokens", 2), ("4e6 tokens", 977), ("2 epochs", 200),
     ("64 examples", 2), ("6 %", 30), ("6%", 30), ("1 token", 1), ("never", 0), ("0 steps", 0)],
)  # fmt: skip
def test_a_duration_is_a_number_of_updates(text, steps):
    assert CLOCK.steps(text, "training.duration") == steps


@pytest.mark.parametrize("text", ["2000", "steps", "-3 steps", "2 weeks", "two steps", "1 2 steps"])
def test_a_duration_without_sense_is_an_error(text):
    with pytest.raises(ConfigError, match="config.training.duration"):
        CLOCK.steps(text, "training.duration")
