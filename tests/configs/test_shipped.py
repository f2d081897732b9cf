"""Invariant 12: every file in configs/ runs, made tiny by one helper."""

import importlib
import pathlib
import re

import pytest
import tiny_configs

import finetune
import train
from models import presets
from training import config as config_lib
from training.config import ConfigError
from training.schema import FinetuneConfig, PretrainConfig

ROOT = pathlib.Path(__file__).parent.parent.parent
HELPERS = {"__init__.py", "base.py"}
BENCHMARKS = {"glue.py", "super_glue.py"}  # configs of finetune.py with an argument
# A run of word vectors gives its embeddings to a model that the finetuning config describes.
FROM_WORD_VECTORS = {"init": "embeddings", "model__num_layers": 1, "model__emb_dim": 32,
                     "model__num_heads": 2, "model__mlp_dim": 64}  # fmt: skip

GENERATES = ("seq2seq", "text_to_text")  # tasks that an encoder cannot do
# Finetuning configs that run on every pretraining config; the others run on that of an encoder, or on this.
EVERYWHERE = ("classification", "seq2seq")
ONLY = {"text_to_text": "decoder"}


def shipped(folder):
    files = (ROOT / "configs" / folder).glob("*.py")
    return sorted(p for p in files if p.name not in HELPERS | BENCHMARKS)


def recipes_of(path):
    return [name for name, fitting in presets.RECIPES.items() if path.stem in fitting]


TRANSFORMERS = [p for p in shipped(".") if "recipe:" in p.read_text()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shipped")


def test_every_folder_of_configs_is_tested():
    folders = {p.name for p in (ROOT / "configs").iterdir() if p.is_dir() and p.name[0] not in "_."}
    assert folders == {"finetune", "sweeps"}  # tests/sweeps


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "electra")) for p in shipped(".")],
    ids=lambda p: p.stem,
)
@pytest.mark.parametrize("target", shipped("finetune"), ids=lambda p: p.stem)
def test_invariant_12_a_shipped_config_pretrains_and_finetunes_two_steps(folder, path, target):
    if target.stem not in EVERYWHERE and path.stem != ONLY.get(target.stem, "encoder"):
        pytest.skip("with one architecture alone")
    run = folder / path.stem
    config = tiny_configs.pretraining(folder, str(path), model__num_layers=1)
    assert train.run(config, str(run)).step == 2
    overrides = FROM_WORD_VECTORS if config.model.architecture == "embeddings" else {}
    if target.stem in GENERATES and "model__num_layers" in overrides:
        overrides = overrides | {"model__architecture": "decoder"}
    config = tiny_configs.finetuning(folder, run, str(target), **overrides)
    if target.stem in GENERATES and path.stem in ("encoder", "electra"):
        with pytest.raises(ValueError, match="an encoder cannot"):
            finetune.run(config, f"{run}-{target.stem}")
        return
    result = finetune.run(config, f"{run}-{target.stem}")
    assert result.step == 2
    metric = getattr(config_lib.resolve(FinetuneConfig, config).task, "metric", "loss")
    metric = {"auto": "accuracy"}.get(metric, metric)
    assert f"validation/{metric}" in result.metrics


def glue(name):
    """(config file, task, the values of a row by column) of each benchmark's tasks."""
    module = importlib.import_module(f"configs.{name}")
    return [(f"configs/{name}.py:task={task}", fields) for task, fields in module.TASKS.items()]


@pytest.mark.parametrize(("file", "fields"), [*glue("glue"), *glue("super_glue")])
def test_a_benchmark_reads_the_columns_of_its_task_and_has_its_metric(tmp_path, file, fields):
    """The labels are those of its files; TFDS has names in their place."""
    columns = [value for name, value in fields.items() if name.endswith("_column")]
    columns += fields.get("choice_columns", ())
    columns += re.findall(r"{(\w+)}", fields.get("prompt", ""))
    labels = ["3.5", "1.25"] if fields.get("name") == "regression" else ["0", "1"]
    for split in ("train", "dev"):
        lines = ["\t".join([*columns, "label"])]
        for row in range(8):
            lines.append("\t".join([f"{name} {row}" for name in columns] + [labels[row % 2]]))
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    given = config_lib.override(
        config_lib.load_config_file(file),
        [("task.source", f"files:{tmp_path}/{{train,dev}}.tsv"), ("init_from", "unused")],
    )
    task = config_lib.resolve(FinetuneConfig, given).task
    splits = task.read()
    assert len(splits["validation"]) == 8
    assert set(fields.items()) <= {(name, getattr(task, name)) for name in fields}
    if task.metric == "f1":
        assert task.index_of_positive(splits.label_names) == 1
        for names in (("equivalent", "not_equivalent"), ("duplicate", "not_duplicate")):
            assert task.index_of_positive(names) == 0


def test_a_benchmark_without_that_task_names_those_it_has():
    with pytest.raises(ConfigError, match="task=mrcp: expected one of cola, sst2, mrpc"):
        config_lib.load_config_file("configs/glue.py:task=mrcp")


@pytest.mark.slow
@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_invariant_12_the_modern_recipe_pretrains_two_steps(folder, path):
    config = tiny_configs.pretraining(folder, f"{path}:recipe=modern", model__num_kv_heads=1)
    assert train.run(config, str(folder / f"{path.stem}-modern")).step == 2


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_every_size_and_recipe_of_a_shipped_config_resolves(path):
    for size in presets.SIZES:
        for recipe in recipes_of(path):
            given = config_lib.load_config_file(f"{path}:size={size},recipe={recipe}")
            config = config_lib.resolve(PretrainConfig, given)
            modern = recipe == "modern"
            assert config.objective.z_loss == (1e-4 if modern else 0)
            assert config.model.qk_norm == modern
            fields = presets.RECIPES[recipe][path.stem]
            assert {name: getattr(config.model, name) for name in fields} == fields


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_resolves_with_its_architecture_and_vocabulary_size(name):
    path = f"configs/{presets.preset(name)['architecture']}.py:preset={name}"
    config = config_lib.resolve(PretrainConfig, config_lib.load_config_file(path))
    expected = presets.preset(name)
    assert {key: getattr(config.model, key) for key in expected} == expected
    assert config.tokenizer.vocab_size == config.model.vocab_size > 30_000


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_the_docstring_lists_every_size_recipe_and_preset(path):
    docstring = importlib.import_module(f"configs.{path.stem}").get_config.__doc__
    listed = dict(
        re.findall(r"^ +(size|recipe|preset)\b[^:]*: ([^:]*)\.$", docstring, re.MULTILINE)
    )
    listed = {key: re.findall(r"[\w.+-]*\w", value) for key, value in listed.items()}
    fitting = [n for n, p in presets.PRESETS.items() if p.fields["architecture"] == path.stem]
    assert [word for word in listed["size"] if word != "default"] == list(presets.SIZES)
    assert set(listed["recipe"]) - {"default", "or"} == set(recipes_of(path))
    assert listed["recipe"][:2] == ["classic", "default"]
    assert listed["preset"] == fitting


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("encoder.py:preset=gpt2", "unknown preset 'gpt2' for architecture encoder"),
        ("decoder.py:preset=gpt2,size=base", "leave out size=base, or preset"),
        (
            "decoder.py:recipe=moderm",
            "'moderm' for architecture decoder: expected one of classic, modern",
        ),
        ("decoder.py:layers=3", "expected NAME=VALUE with NAME one of size, recipe, preset"),
        ("skip_gram.py:words=yes", "words=yes: expected true or false"),
    ],
)
def test_an_invalid_argument_of_a_config_file_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.load_config_file(str(ROOT / "configs" / given))
