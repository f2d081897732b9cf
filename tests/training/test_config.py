"""Configs and command lines: every wrong value is one line with the remedy, every right one is converted."""

import dataclasses
import pathlib
import subprocess
import sys

import ml_collections
import pytest

from models import presets
from training import cli, durations
from training import config as config_lib
from training.config import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Inner:
    num_layers: int = dataclasses.field(
        default=2, metadata={"min": 1, "max": 100, "help": "layers of the stack"}
    )
    rate: float = dataclasses.field(default=0.1, metadata={"min": 0.0})
    norm: str = dataclasses.field(default="post", metadata={"choices": ("post", "pre")})
    tied: bool = True
    rules: tuple = ()

    def __post_init__(self):
        if self.num_layers == 13:
            raise ValueError("num_layers=13 is unlucky; choose 12")


@dataclasses.dataclass(frozen=True)
class First:
    name = "first"
    density: float = 0.15


@dataclasses.dataclass(frozen=True)
class Second:
    name = "second"
    span: int = 3


@dataclasses.dataclass(frozen=True)
class Seeds:
    init: int = 0
    data: int = dataclasses.field(default=0, metadata={"min": 0, "max": 2**63 - 1})


@dataclasses.dataclass(frozen=True)
class Outer:
    model: Inner
    objective: First = dataclasses.field(
        metadata={"variants": {"first": First, "second": Second}, "default": "first"}
    )
    seed: Seeds = Seeds()
    source: str = "a"


def resolve(**fields):
    return config_lib.resolve(Outer, ml_collections.ConfigDict(fields))


def test_an_empty_config_is_all_defaults():
    assert resolve() == Outer(Inner(), First())


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("1e1", 10), (7, 7), (8.0, 8), ("99", 99), ("+5", 5)]
)
def test_integers_come_from_text_and_from_whole_floats(text, value):
    num_layers = resolve(model={"num_layers": text}).model.num_layers
    assert num_layers == value and isinstance(num_layers, int)


def test_a_large_integer_is_exact_and_a_float_field_takes_an_integer():
    assert resolve(seed={"data": str(2**62 + 1)}).seed.data == 2**62 + 1
    rate = resolve(model={"rate": "3"}).model.rate
    assert rate == 3.0 and isinstance(rate, float)


def test_tuples_and_booleans_come_from_text():
    inner = resolve(model={"rules": "(('.*', 1.0),)", "tied": "False"}).model
    assert inner.rules == ((".*", 1.0),)
    assert inner.tied is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modle": {}}, "unknown key config.modle; did you mean config.model?"),
        (
            {"model": {"num_layer": 3}},
            "unknown key config.model.num_layer; did you mean config.model.num_layers?",
        ),
        ({"rate": 3}, "unknown key config.rate; did you mean config.model.rate?"),
        ({"span": 3}, "unknown key config.span; did you mean config.objective.span?"),
        ({"span": 3}, "config.objective.span? It is a field of config.objective.name=second"),
        (
            {"objective": {"span": 3}},
            "config.objective.span; it is a field of config.objective.name=second",
        ),
        (
            {"seed": {"num_layers": 3}},
            "config.seed.num_layers; did you mean config.model.num_layers?",
        ),
        ({"seed": {"rat": 3}}, "unknown key config.seed.rat; did you mean config.model.rate?"),
        (
            {"modle": {"num_layers": "3"}},
            "unknown key config.modle.num_layers; did you mean config.model.num_layers?",
        ),
        ({"model_num_layers": 3}, "config.model_num_layers; did you mean config.model.num_layers?"),
        ({"zzz": 3}, "unknown key config.zzz; expected one of model, objective, seed, source"),
        (
            {"model": {"num_layers": "four"}},
            "config.model.num_layers='four' has the wrong type (str); expected an integer",
        ),
        ({"model": {"num_layers": "1.5"}}, "config.model.num_layers='1.5' has the wrong type"),
        ({"model": {"num_layers": True}}, "config.model.num_layers=True has the wrong type"),
        ({"model": {"num_layers": "True"}}, "config.model.num_layers='True' has the wrong type"),
        (
            {"model": {"num_layers": 0}},
            "config.model.num_layers=0 is out of range; expected between 1 and 100",
        ),
        (
            {"model": {"rate": -1.0}},
            "config.model.rate=-1.0 is out of range; expected at least 0.0",
        ),
        ({"model": {"rate": "nan"}}, "config.model.rate='nan' has the wrong type"),
        ({"model": {"rate": float("nan")}}, "config.model.rate=nan has the wrong type"),
        ({"model": {"rate": "1e999"}}, "config.model.rate='1e999' has the wrong type"),
        (
            {"model": {"norm": "prae"}},
            "config.model.norm='prae' is not a choice; did you mean 'pre'?",
        ),
        (
            {"model": {"tied": "yes"}},
            "config.model.tied='yes' has the wrong type (str); expected true or",
        ),
        ({"model": {"rules": "(1,"}}, "expected a tuple"),
        ({"model": 3}, "config.model=3 is a section; set one of its keys, num_layers, rate, norm"),
        (
            {"model": {"num_layers": {"x": 4}}},
            "config.model.num_layers is a field, not a section, got {'x': 4}; set "
            "--config.model.num_layers=VALUE",
        ),
        ({"model": {"num_layers": 13}}, "config.model: num_layers=13 is unlucky; choose 12"),
        ({"objective": {"name": "secnd"}}, "did you mean 'second'?"),
        ({"objective": {"name": "second", "density": 0.1}}, "unknown key config.objective.density"),
        ({"seed": "one"}, "config.seed.init='one' has the wrong type (str); expected an integer"),
        ({"source": 3}, "config.source=3 has the wrong type (int); expected text"),
    ],
)
def test_a_wrong_field_is_one_line_with_the_value_and_the_remedy(fields, message):
    with pytest.raises(ConfigError) as error:
        resolve(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_survives_its_own_dict():
    config = resolve(model={"num_layers": 5}, objective={"name": "second", "span": 9})
    again = config_lib.resolve(Outer, config_lib.to_dict(config))
    assert again == config
    assert config_lib.to_dict(config)["objective"] == {"name": "second", "span": 9}


def test_difference_names_each_field_and_sees_no_difference_in_json():
    old = {"a": {"b": 1, "c": (1, 2)}, "d": 2}
    assert config_lib.difference(old, {"a": {"b": 1, "c": [1, 2]}, "d": 2}) == []
    assert config_lib.difference(old, {"a": {"b": 3, "c": (1, 2)}}) == [
        ("a.b", 1, 3),
        ("d", 2, "(absent)"),
    ]


def test_overrides_win_over_the_file_and_may_name_new_fields():
    given = ml_collections.ConfigDict({"model": {"num_layers": 3}})
    config = config_lib.override(given, [("model.num_layers", "4"), ("objective.density", "0.3")])
    resolved = config_lib.resolve(Outer, config)
    assert resolved.model.num_layers == 4
    assert resolved.objective.density == 0.3
    assert given.model.num_layers == 3
    with pytest.raises(ConfigError, match="config.model.num_layers is a field, not a section"):
        config_lib.resolve(Outer, config_lib.override(given, [("model.num_layers.x", "4")]))


@pytest.mark.parametrize("given", [{}, {"seed": 7}, {"seed": {"init": 7, "data": 8}}])
@pytest.mark.parametrize("order", [1, -1])
def test_one_integer_sets_every_seed_and_a_single_seed_wins_whatever_the_order(given, order):
    both = [("seed", "1"), ("seed.data", "5")][::order]
    assert config_lib.resolve(Outer, config_lib.override(given, both)).seed == Seeds(init=1, data=5)
    alone = config_lib.resolve(Outer, config_lib.override(given, [("seed.data", "5")])).seed
    assert alone == Seeds(init=7 if given else 0, data=5)
    assert config_lib.resolve(Outer, config_lib.override(given, [("seed", "1")])).seed == Seeds(
        1, 1
    )


def test_a_section_that_gets_another_name_starts_from_its_own_defaults(caplog):
    caplog.set_level("INFO", "triptych")
    given = {"objective": {"name": "bert_style", "noise_density": 0.5}, "model": {"num_layers": 3}}
    names = [("objective.targets", "full"), ("objective.name", "mass_style")]
    assert config_lib.override(given, names).to_dict() == {
        "objective": {"name": "mass_style", "targets": "full"},
        "model": {"num_layers": 3},
    }
    assert "objective.name=mass_style: ignoring noise_density, set for bert_style" in caplog.text
    same = config_lib.override(given, [("objective.name", "bert_style"), ("model.num_layers", "4")])
    assert same.objective.noise_density == 0.5


@pytest.mark.parametrize("key", ["objective", "objective.name"])
def test_a_section_with_variants_may_be_given_by_its_name(key):
    names = [("objective.span", "9"), (key, "second")]
    for given in ({}, {"objective": "first"}, {"objective": {"name": "first", "density": 0.3}}):
        assert config_lib.resolve(Outer, config_lib.override(given, names)).objective == Second(
            span=9
        )


def test_describe_aligns_key_value_origin_and_help():
    given = config_lib.override({"seed": 3, "model": {"num_layers": 4}}, [("objective", "second")])
    lines = config_lib.describe(config_lib.resolve(Outer, given), given)
    found = {line.split()[0]: line.split(None, 4)[2:] for line in lines}
    assert found["config.model.num_layers"] == ["4", "set", "layers of the stack"]
    assert found["config.model.norm"] == ["'post'", "default", "('post' | 'pre')"]
    assert found["config.objective.name"] == ["'second'", "set", "one of first, second"]
    assert found["config.objective.span"] == ["3", "default"]
    assert found["config.seed.init"] == found["config.seed.data"] == ["3", "set"]
    assert len({line.index(" = ") for line in lines}) == 1
    named = [line for line in lines if "num_layers" in line or "objective.name" in line]
    assert len({line.index(" set ") for line in named}) == 1


def test_a_missing_config_file_names_the_nearest():
    with pytest.raises(ConfigError, match="'configs/decodr.py' does not exist.*configs/decoder.py"):
        config_lib.load_config_file("configs/decodr.py")


CONVERTER = durations.StepConverter(
    batch_size=32, tokens_per_step=4096, epoch_size=3200, flops_per_step=2e9, total_steps=500
)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("2000 steps", 2000), ("1 step", 1), ("8192 tokens", 2), ("4e6 tokens", 977), ("2 epochs", 200),
     ("64 examples", 2), ("3e12 FLOPs", 1500), ("1 FLOP", 1),
     ("6 %", 30), ("6%", 30), ("1 token", 1), ("never", 0), ("0 steps", 0)],
)  # fmt: skip
def test_a_duration_is_a_number_of_steps(text, steps):
    assert CONVERTER.steps(text, "training.duration") == steps


@pytest.mark.parametrize(
    "text",
    ["2000", "steps", "-3 steps", "2 weeks", "two steps", "1 2 steps", "3e9 GFLOPs", "1e308 epochs",
     "3e9 steps"],
)  # fmt: skip
def test_an_invalid_duration_is_an_error(text):
    with pytest.raises(ConfigError, match="config.training.duration"):
        CONVERTER.steps(text, "training.duration")


def test_help_lists_config_files_sizes_and_presets():
    text = cli.config_help()
    for name in ("configs/decoder.py", "configs/finetune/classification.py", *presets.SIZES):
        assert name in text
    assert all(name in text for name in presets.PRESETS)
    assert "configs/base.py" not in text


FAST = """
import sys
from training import cli

status = 0
try:
    cli.main(lambda argv: cli.run_entry_point(argv, "Trains.", "training.schema:PretrainConfig", None))
except SystemExit as stop:
    status = stop.code
heavy = "jax flax optax orbax sklearn tensorflow_datasets grain".split()
assert not set(heavy) & sys.modules.keys(), sorted(set(heavy) & sys.modules.keys())
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--help"], 0, "--workdir"),
        (
            ["--confg=configs/decoder.py"],
            1,
            "error: unrecognized arguments: --confg=configs/decoder.py; did you mean --config?",
        ),
        (["--config=configs/decodr.py"], 1, "such as configs/decoder.py"),
        (["--config=configs/decoder.py", "--workdri=x"], 1, "did you mean --workdir?"),
        (["--config=configs/decoder.py", "--config.seed.data"], 1, "has no value"),
    ],
)
def test_help_and_a_wrong_flag_are_answered_without_jax(words, status, message):
    done = subprocess.run(
        [sys.executable, "-c", FAST, *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert message in done.stdout + done.stderr
    assert status == 0 or done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("resumes", "line"), [(False, ""), (True, "; run the same command again to resume")]
)
def test_an_interrupt_is_one_line_and_status_130(resumes, line, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        cli.main(interrupted, [], resumes=resumes)
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"error: interrupted{line}\n"


DROPPED = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from training import cli

class Library:
    def __del__(self):  # Python drops what is raised here
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

def program(argv):
    Library()
    print("went on", flush=True)
    time.sleep(30)

signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main(program, [])
"""


def test_an_interrupt_that_a_finalizer_drops_still_ends_the_program():
    done = subprocess.run(
        [sys.executable, "-c", DROPPED.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "went on\n" and done.returncode == 130, done.stderr
    assert done.stderr.startswith("error: interrupted")


@pytest.mark.parametrize(
    ("program", "file", "other"),
    [
        ("train.py", "configs/finetune/classification.py", "finetune.py"),
        ("finetune.py", "configs/encoder.py", "train.py"),
    ],
)
def test_a_config_of_the_other_program_is_named(program, file, other):
    done = subprocess.run(
        [sys.executable, str(ROOT / program), f"--config={ROOT / file}", "--workdir=runs/x"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and f"is a config of {other}" in done.stderr
