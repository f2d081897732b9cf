"""Law 12: each file in configs/, shrunk and re-sourced by one helper, runs; none is left out."""

import pathlib

import pytest
import shrink

import finetune
import train
from models import presets
from studies import objectives, three_ways
from studies.config import StudyConfig
from training import config as configs
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent.parent
SHARED = {"__init__.py", "base.py"}
# Word vectors give their table, to a network that the finetuning config describes.
VECTORS = {"transfer": "embeddings", "network__layers": 1, "network__width": 32, "network__heads": 2,
           "network__mlp_size": 64}  # fmt: skip


def shipped(folder):
    return sorted(p for p in (ROOT / "configs" / folder).glob("*.py") if p.name not in SHARED)


TRANSFORMERS = [p for p in shipped(".") if "recipe=" in p.read_text()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shipped")


def test_no_folder_of_configs_is_forgotten():
    folders = {p.name for p in (ROOT / "configs").iterdir() if p.is_dir() and p.name[0] not in "_."}
    assert folders == {"finetune", "studies", "comparisons"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "electra")) for p in shipped(".")],
    ids=lambda p: p.stem,
)
@pytest.mark.parametrize("target", shipped("finetune"), ids=lambda p: p.stem)
def test_law_12_a_shipped_config_pretrains_and_finetunes_two_steps(folder, path, target):
    run = folder / path.stem
    config = shrink.pretraining(folder, str(path), model__layers=1)
    assert train.run(config, str(run)).step == 2
    arm = VECTORS if config.model.architecture == "embeddings" else {}
    config = shrink.finetuning(folder, run, str(target), **arm)
    result = finetune.run(config, f"{run}-{target.stem}")
    assert result.step == 2
    assert "test/accuracy" in result.metrics


@pytest.mark.slow
@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_law_12_the_modern_recipe_pretrains_two_steps(folder, path):
    run = shrink.pretraining(folder, f"{path}:recipe=modern", model__kv_heads=1)
    result = train.run(run, str(folder / f"{path.stem}-modern"))
    assert result.step == 2


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_every_size_and_recipe_of_a_shipped_config_resolves(path):
    for size in presets.SIZES:
        for recipe in ("classic", "modern"):
            given = f"{path}:size={size},recipe={recipe}"
            config = configs.resolve(train.Config, configs.load_file(given))
            modern = recipe == "modern"
            assert config.objective.z_loss == (1e-4 if modern else 0)
            assert config.model.qk_norm == config.model.gated == modern != config.model.biases


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_resolves_with_its_architecture_and_vocabulary(name):
    path = f"configs/{presets.preset(name)['architecture']}.py:preset={name}"
    config = configs.resolve(train.Config, configs.load_file(path))
    expected = presets.preset(name)
    assert {key: getattr(config.model, key) for key in expected} == expected
    assert config.tokenizer.vocab_size == config.model.vocab_size > 30_000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("encoder.py:preset=gpt2", "preset 'gpt2' is not in the table for architecture encoder"),
        ("decoder.py:preset=gpt2,size=base", "leave out size and recipe"),
        ("decoder.py:recipe=moderm", "recipe=moderm is unknown: expected one of classic, modern"),
    ],
)
def test_an_argument_that_means_nothing_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        configs.load_file(str(ROOT / "configs" / given))


@pytest.mark.parametrize("path", shipped("studies"), ids=lambda p: p.stem)
def test_law_12_a_shipped_study_runs_shrunk(folder, path):
    shrink.labelled(folder)
    shrink.corpus(folder)
    plan = configs.load_file(str(path)).to_dict()
    tiny = shrink.pretraining(folder, "configs/decoder.py", evaluation__every="1 steps")
    small = shrink.finetuning(folder, "run", evaluation__every="never", checkpoint__every="never",
                              evaluation__select="last")  # fmt: skip

    def words(config, leave=()):
        flat = configs.flatten(config.to_dict())
        return tuple(f"{k}={v}" for k, v in flat.items() if not k.startswith(leave))

    plan["pretrain"] = tuple(plan["pretrain"]) + words(
        tiny, ("model.arch", "objective", "model.posi")
    )
    plan["finetune"] = tuple(plan["finetune"]) + words(small, ("init_from",))
    plan |= {"architectures": ("decoder",), "budgets": (20,), "seeds": (0,)}
    settings = configs.resolve(StudyConfig, plan)
    results = three_ways.run(settings, folder / f"study-{path.stem}")
    assert results["complete"] and len(results["cells"]) == 3
    assert (folder / f"study-{path.stem}" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped("comparisons"), ids=lambda p: p.stem)
def test_law_12_a_shipped_comparison_runs_shrunk(folder, path):
    shrink.labelled(folder)
    shrink.corpus(folder)
    plan = configs.load_file(str(path)).to_dict()
    tiny = shrink.pretraining(folder, evaluation__every="1 steps")
    small = shrink.finetuning(folder, "run", evaluation__every="never", checkpoint__every="never",
                              evaluation__select="last")  # fmt: skip
    for section, config in (("pretrain", tiny), ("finetune", small)):
        own = ("model.arch", "model.posi", "objective", "init_from")
        flat = configs.flatten(config.to_dict())
        plan[section] += tuple(f"{k}={v}" for k, v in flat.items() if not k.startswith(own))
    plan |= {"updates": 12, "budgets": (20,), "seeds": (0, 1), "grid": (1e-3,)}
    found = objectives.run(plan, folder / f"comparison-{path.stem}")["rows"]
    first, *others = (row["pretraining"]["matched"]["flops"] for row in found)
    assert all(abs(flops / first - 1) < 0.1 for flops in others)
    assert all(row["paired"]["count"] == 2 for row in found[1:])
