"""Sweeps over the real programs, tiny: stops at a step, a pipeline, replicas against one by one, halving."""

import json

import pytest
import sweeping
import tiny_configs

import train
from studies import samples, three_ways
from studies.results import CONDITIONS
from sweeps import session
from training import config as config_lib
from training import preemption

SHIPPED = sorted((sweeping.ROOT / "configs" / "sweeps").glob("*.py"))
WRAPPED = """
import dataclasses
from sweeps import fixed
from training import config as config_lib
def get_sweep():
    sweep = config_lib.load_config_file({specification!r}, "get_sweep")
    tiny = {tiny!r}
    def shrunk(stage):
        if stage is None:
            return None
        def space(run):
            points = stage.points(run).where(lambda c: {where})
            more = {{k: v for k, v in tiny[stage.program].items() if k not in points.points[0]}}
            return points * fixed(more)
        space = space if callable(stage.space) else space(None)
        return dataclasses.replace(stage, space=space, parent=shrunk(stage.parent))
    return dataclasses.replace(sweep, stage=shrunk(sweep.stage), **{more!r})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


def shrunk(folder, specification, where="True", **more):
    """Writes a sweep file that makes a shipped one tiny, with the points that satisfy a condition on `c`."""
    configs_of = {
        "train.py": tiny_configs.pretraining(folder, "configs/encoder.py"),
        "finetune.py": tiny_configs.finetuning(folder, "x"),
    }
    tiny = {}
    for program, config in configs_of.items():
        flat = config_lib.flatten(config.to_dict())
        given = (
            *tiny_configs.LOOP,
            "data.",
            "model.",
            "tokenizer.",
            "training.seq",
            "task.",
            "optimizer.warmup",
        )
        tiny[program] = {k: v for k, v in flat.items() if k.startswith(given) and v not in ((), "")}
        tiny[program].pop("model.architecture", None)
    tiny["train.py"]["evaluation.num_batches"] = 2
    file = folder / f"shrunk-{len(list(folder.iterdir()))}.py"
    text = WRAPPED.format(specification=specification, tiny=tiny, where=where, more=more)
    file.write_text(text)
    return str(file)


def run(file, workdir, **flags):
    return session.run(sweeping.options(file, workdir, **flags))


def test_a_run_that_stops_at_a_step_and_continues_is_the_uninterrupted_run(folder):
    def config(**more):
        return tiny_configs.pretraining(
            folder, training__duration="6 steps", checkpoint__every="3 steps", evaluation__every="2 steps",
            **more,
        )  # fmt: skip

    train.run(config(), str(folder / "whole"))
    for share, step in (("33.33 %", 2), ("4 steps", 4)):
        for _ in range(2):  # the second changes nothing
            with pytest.raises(preemption.Preempted) as stop:
                train.run(config(training__stop_after=share), str(folder / "stopped"))
            assert stop.value.code == 143
        steps = {int(path.name) for path in (folder / "stopped" / "checkpoints").iterdir()}
        assert max(steps) == step
    train.run(config(), str(folder / "stopped"))
    assert tiny_configs.metrics(folder / "stopped") == tiny_configs.metrics(folder / "whole")
    ours, theirs = (tiny_configs.read_params(folder / name, 6) for name in ("stopped", "whole"))
    assert all((ours[path] == theirs[path]).all() for path in theirs)


@pytest.mark.parametrize(
    ("specification", "commands"),
    [("learning_rate.py", 5), ("three_ways.py", 3 + 18), ("three_ways.py:preset=study,tune=1", 3 + 18),
     ("objectives.py", 2 + 2), ("objectives.py:preset=denoisers", 5 + 5), ("noise.py", 4 + 4),
     ("noise.py:study=span_length", 4 + 4), ("masked_or_causal.py", 4 + 4),
     ("masked_or_causal.py:path=causal_then_masked", 4 + 4 + 4),
     ("finetuning.py:init_from=runs/encoder", 2), ("minimal_pairs.py", 6 * 3)],
)  # fmt: skip
def test_a_shipped_sweep_has_few_commands_that_parse_and_runs_nothing_in_a_dry_run(
    specification, commands, tmp_path, capsys
):
    """Replicas: a program for each model, initialization and number of labels."""
    file = f"configs/sweeps/{specification}"
    assert {path.name for path in SHIPPED} == {
        "learning_rate.py", "three_ways.py", "objectives.py", "noise.py", "masked_or_causal.py",
        "finetuning.py", "minimal_pairs.py",
    }  # fmt: skip
    run(file.replace("runs/encoder", str(tmp_path)), tmp_path / "runs", dry_run=True)
    assert capsys.readouterr().out.count(".py --config=configs/") == commands
    assert file in (sweeping.ROOT / file.partition(":")[0]).read_text().partition("def ")[0]


@pytest.fixture(scope="module")
def pipeline(folder):
    """(sweep file, workdir, results) of the shipped pipeline with one condition: two processes."""
    arg = "architectures=encoder,pretraining=2_steps,finetuning=2_steps,labels=40,seeds=2"
    random = 'c.get("init", "random") == "random"'
    file = shrunk(folder, f"configs/sweeps/three_ways.py:{arg}", random, baseline={})
    return file, folder / "pipeline", run(file, folder / "pipeline")


def test_a_pipeline_of_real_runs_has_a_table_and_resumes_nothing(pipeline):
    file, workdir, found = pipeline
    assert found["num_finished"] == 3 and found["rows"][0]["score"]["count"] == 2
    [log] = (workdir / "logs").rglob("finetune*.log")
    assert "2 replicas" in log.read_text()
    before = {path: path.stat().st_mtime for path in workdir.rglob("scores.json")}
    assert len(before) == 2
    assert run(file, workdir)["rows"] == found["rows"]
    assert before == {path: path.stat().st_mtime for path in before}


@pytest.mark.slow
def test_replicas_and_one_by_one_give_the_same_table(folder, pipeline):
    tiny = tiny_configs.finetuning(
        folder, pipeline[1] / "pretrain" / "encoder", training__duration="8 steps",
        task__num_train_examples=60, evaluation__every="4 steps",
    )  # fmt: skip
    given = config_lib.flatten(tiny.to_dict())
    given.pop("optimizer.learning_rate")
    space = f"fixed({given!r}) * grid(lr=[1e-3, 1e-2], seed=range(2))"
    stage = f'finetune("configs/finetune/classification.py", {space})'
    (folder / "replicas").mkdir()
    file = sweeping.write(folder / "replicas", stage, metric="test/accuracy")
    together = run(file, folder / "replicas" / "together")
    alone = run(file, folder / "replicas" / "alone", replicas=1)
    assert together["num_finished"] == alone["num_finished"] == 4
    for ours, theirs in zip(together["rows"], alone["rows"], strict=True):
        assert ours["coordinates"] == theirs["coordinates"] and ours["folders"] == theirs["folders"]
        for name, value in theirs["metrics"].items():
            assert ours["metrics"][name]["mean"] == pytest.approx(value["mean"], abs=1e-3)
        for each in ours["folders"]:
            lines = [
                tiny_configs.metrics(folder / "replicas" / n / each) for n in ("together", "alone")
            ]
            for one, other in zip(*lines, strict=True):
                assert one.pop("split") == other.pop("split")
                assert one == pytest.approx(other, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_a_survivor_of_halving_is_the_run_made_without_it(folder):
    file = shrunk(folder, "configs/sweeps/learning_rate.py:duration=20_steps")
    halved = run(file, folder / "halved", halving=5)
    record = json.loads((folder / "halved" / "sweep.json").read_text())
    states = [each["state"] for each in record["runs"]]
    assert states.count("dropped") == 4 and halved["num_finished"] == 1
    run(file, folder / "full")
    [survivor] = [each["folder"] for each in record["runs"] if each["state"] == "finished"]
    ours, theirs = (tiny_configs.metrics(folder / name / survivor) for name in ("halved", "full"))
    assert ours == theirs


@pytest.mark.slow
def test_invariant_12_the_shipped_study_runs_tiny_and_is_analyzed(folder):
    arg = "architectures=decoder,pretraining=2_steps,finetuning=4_steps,labels=20,seeds=2"
    found = run(shrunk(folder, f"configs/sweeps/three_ways.py:{arg}"), folder / "study")
    assert found["num_finished"] == 7 and len(found["rows"]) == 3
    assert sum("paired" in row for row in found["rows"]) == 2
    assert not list((folder / "study" / "finetune").rglob("checkpoints/*/params"))
    analyzed = three_ways.write(folder / "study")
    assert [row["condition"] for row in analyzed["summary"]] == list(CONDITIONS)
    for ours, theirs in zip(analyzed["summary"], found["rows"], strict=True):
        assert ours["accuracy"]["mean"] == pytest.approx(theirs["score"]["mean"])
    assert (folder / "study" / "study" / "report.html").is_file()
    [sample] = analyzed["samples"].values()  # of the decoder, which continues a prompt
    assert sample["input"] == samples.PROMPT and len(sample["outputs"]) == samples.NUM_FILLS
    assert all(text.startswith(samples.PROMPT) for _, text in sample["outputs"])
    # Tuning shares the pretraining run.
    tuned = run(shrunk(folder, f"configs/sweeps/three_ways.py:{arg},tune=1"), folder / "study")
    assert len(list((folder / "study" / "pretrain").iterdir())) == 1
    assert len(tuned["rows"]) == 12 and sum(row["in_table"] for row in tuned["rows"]) == 3


@pytest.mark.slow
def test_invariant_12_the_shipped_comparison_runs_tiny_at_equal_flops(folder):
    arg = "objectives=bert_style+span_corruption,flops=3e8,finetuning=2_steps,labels=20,seeds=2"
    file = shrunk(folder, f"configs/sweeps/objectives.py:preset=denoisers,{arg}")
    found = run(file, folder / "objectives")
    amounts = [e["quantities"] for e in found["runs"] if e["stage"] == "pretrain"]
    for amount in amounts:  # to half a step
        assert abs(amount["flops"] - 3e8) <= amount["flops"] / amount["steps"] / 2
    assert len({amount["steps"] for amount in amounts}) == 2
    chosen = [row for row in found["rows"] if row["in_table"]]
    assert len(chosen) == 2 and len(found["rows"]) == 6 and chosen[1]["paired"]["count"] == 2
