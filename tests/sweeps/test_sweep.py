"""tools.sweep with stand-ins for the programs: what runs, what does not run twice, and what is said."""

import json
import pathlib
import shlex
import shutil

import pytest
import sweeping

from sweeps import plan, results
from training import cli, preemption
from training import config as config_lib
from training.config import ConfigError

ALL = list(range(1, 11))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(sweep file, workdir, results) of a pipeline that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    file = sweeping.write(
        folder, sweeping.FINETUNE, baseline={"init": "random"}, metric="test/accuracy"
    )
    return file, folder / "runs", sweeping.run(file, folder / "runs")


def test_a_pipeline_runs_its_shared_prefix_once_and_replicas_in_one_command(whole):
    file, workdir, found = whole
    made = sweeping.updates(workdir)
    assert len(made) == 13 and all(steps == ALL for steps in made.values())
    assert set(sweeping.states(workdir).values()) == {"finished"}
    record = json.loads((workdir / "sweep.json").read_text())
    commands = {tuple(each["attempts"][0]["command"]) for each in record["runs"]}
    assert len(commands) == 3  # one pretraining run, two groups of 2 learning rates × 3 seeds
    assert "finetune/init=random/learning_rate=0.003,seed=2" in made
    assert found["num_finished"] == found["num_planned"] == 13


def test_the_table_has_means_intervals_and_paired_differences(whole):
    file, workdir, found = whole
    assert found["columns"] == ["init", "optimizer.learning_rate"] and len(found["rows"]) == 4
    best = found["rows"][found["best"]]
    assert best["coordinates"] == {"init": "pretrained", "optimizer.learning_rate": "0.001"}
    values = [
        json.loads((workdir / folder / "scores.json").read_text())["test/accuracy"]
        for folder in best["folders"]
    ]
    assert best["score"]["mean"] == pytest.approx(sum(values) / 3) and best["score"]["count"] == 3
    assert best["score"]["interval95"] == pytest.approx(
        4.30265 * best["score"]["std"] / 3**0.5, rel=1e-4
    )
    paired = best["paired"]
    assert paired["reference"] == {"init": "random", "optimizer.learning_rate": "0.001"}
    assert paired["mean"] == pytest.approx(0.1, abs=1e-3) and paired["wins"] == 3
    assert paired["interval95"] < 1e-6 < best["score"]["interval95"]
    lines = (workdir / "results.csv").read_text().splitlines()
    assert len(lines) == 14 and lines[0].startswith("folder,stage,state,step,seconds,config,")
    assert (workdir / "best.txt").read_text().splitlines() == [
        "python train.py --config=configs/decoder.py --workdir=best/pretrain",
        "python finetune.py --config=configs/finetune/classification.py --workdir=best/finetune "
        "--config.init_from=best/pretrain --config.init=pretrained "
        "--config.optimizer.learning_rate=0.001",
    ]
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3 and "http" not in page.replace("http://www.w3", "")


def test_of_points_that_differ_in_a_tuned_key_the_best_on_validation_is_compared(tmp_path, caplog):
    caplog.set_level("INFO", logger="triptych")
    stage = (
        'finetune("configs/finetune/classification.py", grid(lr=[1e-3, 2e-3, 3e-3], wd=[1e-3, 2e-3], '
        'seed=range(2)), init_from=train(grid(config=["configs/decoder.py", '
        '"configs/encoder.py:size=mini"])))'
    )
    arguments = {"metric": "test/accuracy", "baseline": {"wd": 1e-3}, "tuned": ["lr"]}
    workdir = tmp_path / "runs"
    found = sweeping.run(sweeping.write(tmp_path, stage, **arguments), workdir)
    assert len(found["rows"]) == 12 and found["chosen_by"] == "validation/accuracy"
    names = "pretrain.config", "optimizer.weight_decay", "optimizer.learning_rate"
    chosen = [row for row in found["rows"] if row["in_table"]]
    assert {tuple(row["coordinates"][name] for name in names) for row in chosen} == {
        (model, rate, rate)
        for model in ("decoder", "encoder:size=mini")
        for rate in ("0.001", "0.002")
    }
    for row in found["rows"]:
        compared = row["in_table"] and row["coordinates"]["optimizer.weight_decay"] == "0.002"
        assert ("paired" in row) == compared
        if compared:  # with the best one of the baseline, of the same model
            model = row["coordinates"]["pretrain.config"]
            assert row["paired"]["reference"] == dict(zip(
                ("pretrain.config", "optimizer.learning_rate", "optimizer.weight_decay"),
                (model, "0.001", "0.001"), strict=True,
            ))  # fmt: skip
            assert row["paired"]["mean"] == pytest.approx(0, abs=1e-6) and row["edges"] == []
    lines = caplog.text
    assert "0.001 (edge)" in lines and "('decoder', 0.001, 0.001),  # lr: at an edge" in lines
    assert "('encoder:size=mini', 0.002, 0.002),\n" in lines.replace(" \n", "\n")
    assert "pretrain/decoder: 10 steps, 400 k non-embedding parameters, 50 G FLOPs" in lines
    page = (workdir / "report.html").read_text()
    assert "<h2>All points</h2>" in page and "400 k" in page
    with pytest.raises(
        ConfigError, match="tuned: 'lrr' is not a key of the runs; did you mean 'lr'"
    ):
        sweeping.run(sweeping.write(tmp_path, stage, tuned=["lrr"]), tmp_path / "other")
    with pytest.raises(ConfigError, match="tuned='lr': expected a list of keys"):
        sweeping.run(sweeping.write(tmp_path, stage, tuned="lr"), tmp_path / "other")


def test_config_files_have_the_shortest_names_that_differ():
    files = "configs/encoder.py:size=tiny,objective=a", "configs/encoder.py:size=tiny,objective=b"
    assert list(results.config_names(files).values()) == [
        "encoder:objective=a",
        "encoder:objective=b",
    ]
    files = "configs/encoder.py:size=tiny", "configs/decoder.py:size=tiny"
    assert list(results.config_names(files).values()) == ["encoder", "decoder"]
    assert results.config_names(["a/x.py", "b/x.py"]) == {}  # the whole names


def test_the_same_command_runs_nothing_again(whole):
    file, workdir, found = whole
    assert sweeping.run(file, workdir)["rows"] == found["rows"]
    assert all(steps == ALL for steps in sweeping.updates(workdir).values())


def test_one_by_one_gives_the_same_table(whole, tmp_path):
    file, workdir, found = whole
    alone = sweeping.run(file, tmp_path / "alone", replicas=1, jobs=4, pin="none")
    assert alone["rows"] == found["rows"]
    record = json.loads((tmp_path / "alone" / "sweep.json").read_text())
    assert len({tuple(each["attempts"][0]["command"]) for each in record["runs"]}) == 13


def test_runs_with_other_checkpoints_are_no_replicas_of_one_program(tmp_path):
    """Replicas resume from a common step; the one that is ahead would make its updates again."""
    space = f'fixed(init_from="{tmp_path}") * grid(seed=range(3))'
    (tmp_path / "config.json").write_text("{}")
    file = sweeping.write(tmp_path, f'finetune("configs/finetune/classification.py", {space})')
    workdir = tmp_path / "runs"
    runs = _runs(file)
    assert [len(job.runs) for job in plan.make_jobs(runs, workdir, 16)] == [3]
    assert [len(job.runs) for job in plan.make_jobs(runs, workdir, 2)] == [2, 1]
    (workdir / runs[1].folder / "checkpoints" / "5").mkdir(parents=True)
    assert [len(job.runs) for job in plan.make_jobs(runs, workdir, 16)] == [2, 1]


def test_a_run_that_stops_by_itself_is_continued_by_the_same_command(tmp_path):
    stage = 'train("configs/decoder.py", fixed({}) * grid(lr=[1e-3, 2e-3]))'
    file = sweeping.write(tmp_path, stage.format("training__stop_after='50 %'"))
    with pytest.raises(preemption.Preempted) as stop:
        sweeping.run(file, tmp_path / "runs")
    assert stop.value.code == 143
    assert set(sweeping.states(tmp_path / "runs").values()) == {"stopped"}
    sweeping.run(sweeping.write(tmp_path, stage.format("")), tmp_path / "runs")
    assert all(steps == ALL for steps in sweeping.updates(tmp_path / "runs").values())


def test_a_dry_run_prints_commands_that_the_programs_accept_and_writes_nothing(tmp_path, capsys):
    file = sweeping.write(tmp_path, sweeping.FINETUNE)
    sweeping.run(file, tmp_path / "runs", dry_run=True)
    assert not (tmp_path / "runs").exists()
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) == 3
    for command in commands:
        _, program, *flags = shlex.split(command)
        assignments, rest = cli.split_assignments(flags)
        config = config_lib.load_config_file(rest[0].partition("=")[2])
        schema = plan.SCHEMAS[pathlib.Path(program).name]
        config_lib.resolve(schema, config_lib.override(config, assignments))


def test_printed_commands_are_collected_by_the_same_command(tmp_path, capsys):
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    found = sweeping.run(file, workdir, executor="print")
    assert found["num_finished"] == 0
    printed = capsys.readouterr().out
    assert printed.count("train.py --config=configs/decoder.py --workdir=") == 4
    sweeping.run(file, workdir)
    found = sweeping.run(file, workdir, executor="print")
    assert found["num_finished"] == 4 and "train.py" not in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["fail", "kill", "full"])
def test_a_run_that_fails_is_reported_and_the_others_continue(tmp_path, monkeypatch, caplog, fault):
    monkeypatch.setenv("FAULTS", json.dumps({"lr=0.002,seed=0": fault}))
    file, workdir = sweeping.write(tmp_path, sweeping.PRETRAIN), tmp_path / "runs"
    with pytest.raises(
        ConfigError, match="1 of 4 runs failed, the first is pretrain/lr=0.002,seed=0"
    ):
        sweeping.run(file, workdir)
    states = sweeping.states(workdir)
    assert states.pop("pretrain/lr=0.002,seed=0") == "failed" and set(states.values()) == {
        "finished"
    }
    message = {
        "fail": "error: update 5 went wrong; lower the learning rate",
        "kill": "killed by signal 9 (out of memory?)",
        "full": "error: cannot write x: the disk is full",
    }[fault]
    assert message in caplog.text and message in (workdir / "report.html").read_text()
    found = sweeping.run(file, workdir)
    assert found["num_finished"] == 4
    assert all(steps == ALL for steps in sweeping.updates(workdir).values())


def test_a_failed_parent_blocks_its_children_alone(tmp_path, monkeypatch):
    stage = (
        'finetune("configs/finetune/classification.py", grid(seed=range(2)), '
        'init_from=train("configs/decoder.py", grid(seed=range(2))))'
    )
    monkeypatch.setenv("FAULTS", json.dumps({"pretrain/seed=1": "fail"}))
    file, workdir = sweeping.write(tmp_path, stage), tmp_path / "runs"
    with pytest.raises(ConfigError, match="1 of 6 runs failed"):
        sweeping.run(file, workdir)
    states = sweeping.states(workdir)
    assert states["finetune/seed=0/seed=1"] == "finished"
    assert states["finetune/seed=1/seed=0"] == "blocked"
    assert sweeping.run(file, workdir)["num_finished"] == 6


def test_a_changed_file_says_which_runs_are_new_stale_and_gone(tmp_path, caplog):
    workdir = tmp_path / "runs"
    base = 'train("configs/decoder.py", fixed(duration="{}") * grid(lr={}))'
    sweeping.run(sweeping.write(tmp_path, base.format("9 steps", [1e-3, 2e-3])), workdir)
    # A key more in the names, and another order: the runs that exist keep their directories.
    wider = 'train("configs/decoder.py", fixed(duration="9 steps") * grid(seed=[0, 1], lr=[2e-3, 3e-3]))'
    found = sweeping.run(sweeping.write(tmp_path, wider), workdir)
    assert "gone: pretrain/lr=0.001" in caplog.text
    folders = {entry["folder"] for entry in found["runs"]}
    assert folders == {"pretrain/lr=0.002", "pretrain/seed=0,lr=0.003", "pretrain/seed=1,lr=0.002",
                       "pretrain/seed=1,lr=0.003"}  # fmt: skip
    assert all(steps == ALL for steps in sweeping.updates(workdir).values())
    # Another duration: the finished runs are stale.
    changed = sweeping.write(tmp_path, base.format("10 steps", [1e-3, 2e-3, 5e-3]))
    with pytest.raises(
        ConfigError, match="2 runs in .* are stale, the first is pretrain/lr=0.001"
    ) as error:
        sweeping.run(changed, workdir)
    assert "training.duration was '9 steps', is '10 steps'" in str(error.value)
    assert len(str(error.value)) < 400
    kept = sweeping.run(changed, workdir, stale="keep")
    assert [entry["folder"] for entry in kept["runs"]] == ["pretrain/lr=0.005"]
    redone = sweeping.run(changed, workdir, stale="redo")
    assert redone["num_finished"] == 3
    aside = sorted(p.name for p in (workdir / "set_aside" / "1" / "pretrain").iterdir())
    assert aside == ["lr=0.001", "lr=0.002"]
    sweeping.run(changed, workdir)  # nothing is stale any more


def test_children_of_a_stale_run_are_stale(tmp_path):
    stage = (
        'finetune("configs/finetune/classification.py", grid(seed=range(2)), '
        'init_from=train("configs/decoder.py", fixed(duration="{}")))'
    )
    workdir = tmp_path / "runs"
    sweeping.run(sweeping.write(tmp_path, stage.format("9 steps")), workdir)
    changed = sweeping.write(tmp_path, stage.format("8 steps"))
    with pytest.raises(ConfigError, match="3 runs in .* are stale"):
        sweeping.run(changed, workdir)
    assert sweeping.run(changed, workdir, stale="redo")["num_finished"] == 3


@pytest.mark.parametrize(
    "decays", [(1e-3, 2e-3, 3e-3), (1e-3, 2e-3)]
)  # with one left, wd is no column
def test_a_sweep_whose_baseline_is_left_out_is_reported_without_differences(tmp_path, decays):
    stage = 'train("configs/decoder.py", fixed(duration="{} steps") * grid(wd={}))'
    workdir = tmp_path / "runs"
    sweeping.run(sweeping.write(tmp_path, stage.format(9, decays)), workdir)
    for decay in decays[1:]:
        shutil.rmtree(workdir / "pretrain" / f"wd={decay}")
    changed = sweeping.write(tmp_path, stage.format(8, decays), baseline={"wd": 1e-3})
    found = sweeping.run(changed, workdir, stale="keep")
    assert len(found["rows"]) == len(decays) - 1 == found["num_finished"]
    assert not any("paired" in row for row in found["rows"])


def test_a_run_that_has_not_started_does_not_start_from_a_stale_one(tmp_path):
    parents = 'train("configs/decoder.py", fixed(duration="{} steps") * grid(lr=[1e-3, 2e-3]))'
    workdir = tmp_path / "runs"
    sweeping.run(sweeping.write(tmp_path, parents.format(9)), workdir)
    finetuning = f'finetune("configs/finetune/classification.py", init_from={parents.format(8)})'
    changed = sweeping.write(tmp_path, finetuning)
    with pytest.raises(ConfigError, match="--stale=keep leaves out all 2 runs that are compared"):
        sweeping.run(changed, workdir, stale="keep")
    shutil.rmtree(workdir / "pretrain" / "lr=0.002")
    kept = sweeping.run(changed, workdir, stale="keep")
    folders = [entry["folder"] for entry in kept["runs"]]
    assert folders == ["pretrain/lr=0.002", "finetune/lr=0.002"]
    assert sweeping.run(changed, workdir, stale="redo")["num_finished"] == 4


def test_a_field_that_changes_no_number_makes_no_run_stale(tmp_path):
    workdir, base = tmp_path / "runs", 'train("configs/decoder.py", fixed({}) * grid(lr=[1e-3]))'
    sweeping.run(sweeping.write(tmp_path, base.format("logging__every='5 steps'")), workdir)
    found = sweeping.run(sweeping.write(tmp_path, base.format("logging__every='9 steps'")), workdir)
    assert found["num_finished"] == 1 and sweeping.updates(workdir) == {"pretrain/decoder": ALL}


def test_a_lost_manifest_loses_no_run(whole, tmp_path):
    file, workdir, found = whole
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for name in ("sweep.json", "configs.json"):
        (copy / name).unlink()
    for each in copy.rglob("config.json"):  # as the real programs write it
        if each.parent.name != "decoder" and "seed=" not in each.parent.name:
            continue
        run = next(r for r in _runs(file) if each.parent.relative_to(copy).as_posix() == r.folder)
        each.write_text(json.dumps({"kind": "x", "config": run.config, "model": {}}))
    assert sweeping.run(file, copy)["rows"] == found["rows"]
    assert all(steps == ALL for steps in sweeping.updates(copy).values())


def _runs(file):
    return plan.make_runs(config_lib.load_config_file(file, "get_sweep"))


def test_a_metric_that_no_run_has_names_the_nearest_after_a_report_with_another(whole):
    file, workdir, _ = whole
    (workdir / "report.html").unlink()
    with pytest.raises(ConfigError, match="did you mean 'validation/accuracy'"):
        sweeping.run(file, workdir, metric="validation/acuracy")
    found = json.loads((workdir / "results.json").read_text())
    assert found["metric"] == "validation/accuracy" and (workdir / "report.html").exists()
    assert sweeping.run(file, workdir, metric="-validation/accuracy")["higher_is_better"] is False


def test_without_the_metric_of_the_task_the_report_compares_the_loss(whole, tmp_path):
    """BLEU is not computed if no text is generated."""
    _, workdir, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(workdir, copy)
    file = sweeping.write(tmp_path, sweeping.FINETUNE)
    for manifest in copy.rglob("manifest.json"):
        manifest.write_text(manifest.read_text().replace("+accuracy", "+bleu"))
    found = sweeping.run(file, copy, report=True)
    assert (found["metric"], found["higher_is_better"]) == ("validation/loss", False)


def test_equal_points_run_once_and_are_named(tmp_path, caplog):
    stage = 'train("configs/decoder.py", grid(lr=[1e-3, 2e-3]) + fixed(lr=2e-3) + fixed())'
    found = sweeping.run(sweeping.write(tmp_path, stage), tmp_path / "runs")
    # configs/decoder.py has 2e-3.
    assert found["num_planned"] == 2 and caplog.text.count("is the same run as lr=0.002") == 2
