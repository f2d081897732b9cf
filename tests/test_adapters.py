"""Adapters end to end: what is trained, saved and resumed, what init_from does with them, bad configs."""

import json

import numpy as np
import pytest
import tiny_configs
from hooks import crash_after_save
from test_frozen import assert_same, saved

import finetune
import train
from models import ADAPTERS
from training import init_from, run_directory
from training.config import ConfigError

HEAD = {f"heads/classification/output/{name}" for name in ("kernel", "bias")}
LORA = {"adapter__name": "lora", "adapter__rank": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for architecture in ("encoder", "decoder"):
        config = tiny_configs.pretraining(folder, f"configs/{architecture}.py")
        train.run(config, str(folder / architecture))
    return folder


def tune(folder, name, base="decoder", **overrides):
    config = tiny_configs.finetuning(folder, folder / base, **overrides)
    return finetune.run(config, str(folder / name))


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("encoder", "lora"),
        ("encoder", "prompt"),
        *(("decoder", n) for n in ADAPTERS if n != "none"),
    ],
)
def test_only_the_adapter_and_the_head_are_trained_and_saved(folder, name, base):
    small = {"prompt": {"adapter__num_tokens": 3}, "prefix": {"adapter__num_tokens": 3}}
    run = folder / f"{base}-{name}"
    tune(folder, run.name, base, adapter__name=name, optimizer__learning_rate=0.01,
         optimizer__warmup="never", training__duration="3 steps", **small.get(name, {}))  # fmt: skip
    before, after = (tiny_configs.read_params(run, step) for step in (0, 3))
    own = {p for p in before if p.startswith("adapter/") or (name == "bitfit" and "/bias" in p)}
    assert own and saved(run, 3) == own | HEAD
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    # The keys' biases shift all scores of a query alike, so their gradient vanishes or nearly so.
    assert HEAD <= moved <= own | HEAD
    assert {p for p in own if "key" not in p} <= moved
    moments = {path.split("/", 2)[-1] for path in saved(run, 3, "opt_state")}
    assert not any(path.startswith("embed/tokens/embedding") for path in moments)
    pretrained = tiny_configs.read_params(folder / base, 2)
    for path in pretrained.keys() & after.keys() - own:
        np.testing.assert_array_equal(after[path], pretrained[path], err_msg=path)
    rules = run_directory.read_manifest(run)["param_rules"]
    trained = [line for line in rules if not line.endswith("frozen")]
    assert trained and all(
        line.startswith(("adapter/", "heads/")) or "/bias" in line for line in trained
    )


def test_invariant_02_a_crashed_run_with_an_adapter_resumes_to_the_same_bits(folder, monkeypatch):
    options = {**LORA, "adapter__dropout_rate": 0.2, "training__duration": "4 steps"}
    expected = tune(folder, "whole", **options)
    with crash_after_save(monkeypatch, finetune, 2), pytest.raises(RuntimeError, match="crash"):
        tune(folder, "crashed", **options)
    assert tune(folder, "crashed", **options).metrics == expected.metrics
    runs = (folder / "crashed", folder / "whole")
    assert tiny_configs.metrics(runs[0]) == tiny_configs.metrics(runs[1])
    for step in (3, 4):
        assert_same(*(tiny_configs.read_params(run, step) for run in runs))


def test_the_adapter_of_a_run_is_continued_by_the_same_and_refused_by_another(folder):
    tune(folder, "first", **LORA)
    tune(folder, "second", "first", **LORA)
    last, first = (tiny_configs.read_params(folder / run, step)
                   for run, step in (("first", 2), ("second", 0)))  # fmt: skip
    own = {path for path in first if path.startswith("adapter/")}
    assert_same({p: first[p] for p in own}, {p: last[p] for p in own})
    assert init_from.read_adapter(folder / "second") == ADAPTERS["lora"](rank=2)
    for changes in ({}, {**LORA, "adapter__rank": 4}, {"adapter__name": "ia3"}):
        with pytest.raises(
            ConfigError, match=r"has an adapter \(lora\); merge it .*tools.convert merge"
        ):
            tune(folder, "third", "first", **changes)
    config = tiny_configs.pretraining(folder, init_from=str(folder / "first"))
    with pytest.raises(ConfigError, match="has an adapter"):
        train.run(config, str(folder / "third"))


def test_dora_starts_from_the_norms_of_the_pretrained_weights(folder):
    tune(folder, "dora", **LORA, adapter__use_dora=True)
    first = tiny_configs.read_params(folder / "dora", 0)
    query = "decoder/layer_0/self_attention/query"
    found = first[f"adapter/{query}/magnitude/scale"]
    np.testing.assert_allclose(found, np.linalg.norm(first[f"{query}/kernel"], axis=0), rtol=1e-5)


def test_a_prompt_starts_from_the_embeddings_of_pretrained_tokens(folder):
    tune(folder, "prompted", adapter__name="prompt", adapter__num_tokens=3)
    first = tiny_configs.read_params(folder / "prompted", 0)
    prompt, table = first["adapter/embed/tokens/prompt/embedding"], first["embed/tokens/embedding"]
    assert all((row == table).all(1).any() for row in prompt)


def test_modules_to_save_are_trained_and_saved_too(folder):
    tune(folder, "norms", **LORA, adapter__modules_to_save="('.*_norm/(scale|bias)',)")
    norms = {p for p in saved(folder / "norms", 2) if "_norm/" in p}
    assert norms and norms == {
        p for p in tiny_configs.read_params(folder / "decoder", 2) if "_norm/" in p
    }


BAD = {
    "rank": ({**LORA, "adapter__rank": 0}, r"config.adapter.rank=0 is out of range"),
    "alpha": ({**LORA, "adapter__alpha": -1.0}, "config.adapter.alpha"),
    "unknown": ({"adapter__name": "lorra"}, "did you mean 'lora'"),
    "of another": ({**LORA, "adapter__num_tokens": 3}, "unknown key config.adapter.num_tokens"),
    "no module": ({**LORA, "adapter__target_modules": "('.*/q_proj',)"},
                  r"target_modules: '\.\*/q_proj' matches no module .*'decoder/layer_0/"),
    "a regex": ({**LORA, "adapter__target_modules": "('*',)"}, "is not a regular expression"),
    "nothing": ({**LORA, "adapter__target_modules": "()"}, "trains no parameter"),
    "modules_to_save": ({**LORA, "adapter__modules_to_save": "('x',)"}, "modules_to_save='x' matches no"),
    "random": ({**LORA, "init": "random"}, r"adapter.name='lora' with init='random'"),
    "embeddings": ({"adapter__name": "ia3", "init": "embeddings"}, "with init='embeddings'"),
    "frozen": ({**LORA, "freeze": "('adapter/.*',)"}, "trains no parameter: all of them are frozen"),
    "twice": ({"adapter__name": "ia3", "adapter__target_modules": "('.*/mlp/out',)"}, "both match"),
    "positions": ({"adapter__name": "prompt", "adapter__num_tokens": 30}, "54 positions, but the model"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_adapter_is_one_clear_line_before_an_update(folder, case):
    overrides, message = BAD[case]
    base = "learned" if case == "positions" else "decoder"
    if base == "learned" and not (folder / base).exists():
        config = tiny_configs.pretraining(folder, "configs/decoder.py", model__positions="learned")
        train.run(config, str(folder / base))
    with pytest.raises(ValueError, match=message) as caught:
        tune(folder, "bad", base, **overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400
    assert not (folder / "bad" / "checkpoints").exists()


def test_the_log_says_how_many_parameters_are_trained(folder, caplog):
    caplog.set_level("INFO", "triptych")
    tune(folder, "logged", **LORA)
    line = next(line for line in caplog.messages if "trained" in line and "frozen" in line)
    sizes = [np.prod(x.shape) for x in tiny_configs.read_params(folder / "logged", 2).values()]
    assert f"{sum(sizes):,} parameters" in line
    config = json.loads((folder / "logged/config.json").read_text())["config"]["adapter"]
    assert config["name"] == "lora" and config["rank"] == 2
