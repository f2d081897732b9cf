"""Adapters end to end: what is trained, saved and resumed, what init_from does with them, bad configs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_configs
from hooks import crash_after_save
from test_frozen import assert_same, saved

import finetune
import models
import train
from huggingface import convert
from models import ADAPTERS
from models.config import complete_config
from training import config as config_lib
from training import init_from, run_directory
from training.checkpoint import Checkpoints
from training.config import ConfigError
from training.optimizers import AdamW, Optimizer
from training.param_rules import unflatten_params
from training.schema import CheckpointConfig, FinetuneConfig
from training.state import TrainState

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
    small = {
        "prompt": {"adapter__num_virtual_tokens": 3},
        "prefix": {"adapter__num_virtual_tokens": 3},
    }
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
    tune(folder, "prompted", adapter__name="prompt", adapter__num_virtual_tokens=3)
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
    "of another": ({**LORA, "adapter__num_virtual_tokens": 3},
                   "unknown key config.adapter.num_virtual_tokens"),
    "no module": ({**LORA, "adapter__target_modules": "('.*/q_proj',)"},
                  r"target_modules: '\.\*/q_proj' matches no module .*'decoder/layer_0/"),
    "a regex": ({**LORA, "adapter__target_modules": "('*',)"}, "is not a regular expression"),
    "nothing": ({**LORA, "adapter__target_modules": "()"}, "trains no parameter"),
    "modules_to_save": ({**LORA, "adapter__modules_to_save": "('x',)"}, "modules_to_save='x' matches no"),
    "random": ({**LORA, "init": "random"}, r"adapter.name='lora' with init='random'"),
    "embeddings": ({"adapter__name": "ia3", "init": "embeddings"}, "with init='embeddings'"),
    "frozen": ({**LORA, "freeze": "('adapter/.*',)"}, "trains no parameter: .*has all that the task uses"),
    "twice": ({"adapter__name": "ia3", "adapter__target_modules": "('.*/mlp/out',)"}, "both match"),
    "positions": ({"adapter__name": "prompt", "adapter__num_virtual_tokens": 30},
                  "54 positions, but the model"),
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


def logits_of(folder, run, step, **overrides):
    """(logits of the first test batch, the Batch)."""
    config = config_lib.resolve(FinetuneConfig, tiny_configs.finetuning(folder, run, **overrides))
    task = config.task.load(
        config, run_directory.read_model_config(run), str(run / "tokenizer.json"), lambda line: None
    )
    model = models.build(task.model_config, init_from.read_adapter(run))
    params = unflatten_params(tiny_configs.read_params(run, step))
    batch = next(iter(task.eval_inputs("test")))
    return task.outputs(model, params, batch), batch


def test_a_merged_run_computes_the_same_and_needs_no_other_run(folder, tmp_path):
    run = folder / "tuned"
    options = {**LORA, "optimizer__learning_rate": 0.01, "training__duration": "4 steps",
               "evaluation__select": "last"}  # fmt: skip
    tune(folder, run.name, **options)
    line = convert.merge(str(run), str(tmp_path / "merged"))
    assert "4 of an adapter merged" in line and not (tmp_path / "merged/frozen.json").exists()
    merged, trained = (tiny_configs.read_params(each, step)
                       for each, step in ((tmp_path / "merged", 0), (run, 4)))  # fmt: skip
    assert merged.keys() == {path for path in trained if not path.startswith("adapter/")}
    changed = {path for path in merged if not np.array_equal(merged[path], trained[path])}
    assert changed == {
        f"decoder/layer_0/self_attention/{name}/kernel" for name in ("query", "value")
    }
    found, expected = (logits_of(folder, *each)[0] for each in ((tmp_path / "merged", 0), (run, 4)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    config = run_directory.read_config(tmp_path / "merged")
    assert config["config"]["adapter"] == {"name": "none"}
    with pytest.raises(ConfigError, match="a bottleneck is a layer of its own"):
        tune(folder, "layers", adapter__name="bottleneck", adapter__size=2)
        convert.merge(str(folder / "layers"), str(tmp_path / "no"))


def test_a_lora_checkpoint_is_less_than_two_percent_of_its_base(tmp_path):
    """The proportions of BERT-base (12 layers, 30,522 tokens, LoRA of rank 8) at a quarter of its width."""
    config = complete_config(models.ModelConfig(**models.preset("bert-base")), 30522, 512)
    config = dataclasses.replace(config, emb_dim=192, mlp_dim=768, num_heads=3)
    row = models.make_inputs(np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32))
    model = models.build(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), row)["params"])
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)
    own = {"adapter": ADAPTERS["lora"](rank=2).init(jax.random.key(0), params, config)}
    for name, trained in (("full", params), ("lora", own)):
        state = TrainState.create(trained, Optimizer(AdamW()))
        with Checkpoints(tmp_path / name, CheckpointConfig()) as checkpoints:
            checkpoints.save(state)
            checkpoints.wait()
    sizes = {
        name: sum(f.stat().st_size for f in (tmp_path / name).rglob("*") if f.is_file())
        for name in ("full", "lora")
    }
    assert sizes["lora"] < 0.02 * sizes["full"], sizes


def test_gradual_unfreezing_and_layer_lr_decay_in_a_run_that_resumes_to_the_same_bits(
    folder, monkeypatch
):
    options = {"optimizer__gradual_unfreezing": "34 %", "optimizer__layer_lr_decay": 0.5,
               "training__duration": "6 steps", "checkpoint__max_to_keep": 9,
               "optimizer__schedule": "constant", "optimizer__warmup": "never"}  # fmt: skip
    expected = tune(folder, "unfrozen", **options)
    with crash_after_save(monkeypatch, finetune, 3), pytest.raises(RuntimeError, match="crash"):
        tune(folder, "unfrozen-crashed", **options)
    assert tune(folder, "unfrozen-crashed", **options).metrics == expected.metrics
    runs = [folder / name for name in ("unfrozen", "unfrozen-crashed")]
    assert_same(*(tiny_configs.read_params(run, 6) for run in runs))
    params = [tiny_configs.read_params(runs[0], step) for step in range(7)]

    def moved(prefix):
        """The steps at which a parameter below the prefix changed."""
        return [step for step in range(1, 7)
                if any(not np.array_equal(params[step][p], params[step - 1][p])
                       for p in params[0] if p.startswith(prefix))]  # fmt: skip

    assert moved("heads/") == [1, 2, 3, 4, 5, 6]
    assert moved("decoder/layer_0/") == [3, 4, 5, 6] and moved("embed/") == [5, 6]
    with pytest.raises(ConfigError, match="gradual_unfreezing='34 %' is now 3 steps, and 2 in"):
        tune(folder, "unfrozen", **{**options, "training__duration": "9 steps"})
