"""Sweep files and flags that are wrong: one line before anything runs."""

import pytest
import sweeping

from training.config import ConfigError

WRONG = {
    "an unknown key": (
        'train("configs/decoder.py", grid(optimizer__lr=[1]))',
        "unknown key config.optimizer",
    ),
    "a value out of range": ('train("configs/decoder.py", fixed(lr=-1.0))', "out of range"),
    "a missing config file": ('train("configs/decodre.py")', "configs/decoder.py"),
    "no config file": ("train(grid(seed=[1]))", "no config file"),
    "replicas inside": (
        'finetune("configs/finetune/classification.py", fixed(init_from="x", seeds=(0, 1)))',
        "list them as grid",
    ),
    "no point": ('train("configs/decoder.py", grid(lr=[1]).where(lambda c: c.lr > 1))', "no runs"),
    "a config of the other program": ('train("configs/finetune/classification.py")', "unknown key"),
    "not a stage": ("grid(lr=[1])", r"expected train\(...\) or finetune\(...\)"),
    "unequal lists": ('train("configs/decoder.py", zip_(lr=[1], wd=[1, 2]))', "one length"),
    "a mistake in the file": (
        'train("configs/decoder.py", grdi(lr=[1]))',
        "fails in line 3: NameError: name 'grdi'",
    ),
    "an argument": ('train("configs/decoder.py", gird=3)', "unexpected keyword argument 'gird'"),
    "a mistake in a function": (
        'finetune("configs/finetune/classification.py", lambda run: grid(lr={}[run.config]), '
        'init_from=train("configs/decoder.py"))',
        "after pretrain/decoder: its space fails: 'configs/decoder.py'",
    ),
    "no source": (
        'finetune("configs/finetune/classification.py")',
        "in a sweep file init_from=STAGE",
    ),
    "a source that is missing": (
        'finetune("configs/finetune/classification.py", fixed(init_from="runs/missing"))',
        "init_from='runs/missing' does not exist",
    ),
    "a test metric of pretraining": (
        'train("configs/decoder.py"), metric="test/loss"',
        "metric 'test/loss': not all runs are scored on the test split",
    ),
    "a baseline of no row": (
        'train("configs/decoder.py", zip_(lr=[1e-3, 2e-3], wd=[0.1, 0.2])), '
        'baseline={"lr": 1e-3, "wd": 0.2}',
        "baseline: no run has lr=0.001 and wd=0.2 together",
    ),
    "a metric without its split": (
        'train("configs/decoder.py"), metric="loss"',
        "expected SPLIT/NAME, such as validation/loss",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_sweep_file_is_one_line_before_anything_runs(tmp_path, case):
    stage, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        sweeping.run(sweeping.write(tmp_path, stage), tmp_path / "runs")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400
    assert not (tmp_path / "runs").exists()


def test_wrong_flags_are_one_line(tmp_path):
    file = sweeping.write(tmp_path, sweeping.PRETRAIN)
    for flags, message in (
        ({"baseline": "lrr=0.001"}, "did you mean 'lr'"),
        ({"baseline": "lr=0.005"}, "no run has lr=0.005"),
        ({"baseline": "lr"}, "expected KEY=VALUE"),
        ({"replicas": 0}, "at least 1"),
        ({"halving": 5}, "as many candidates"),
        ({"workdir": "gs://bucket/sweep"}, "local or shared folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            sweeping.run(file, **{"workdir": tmp_path / "runs"} | flags)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    for workdir, message in ((run, "holds a run"), (run / "config.json", "cannot be a directory")):
        with pytest.raises(ConfigError, match=message):
            sweeping.run(file, workdir)
    bad = tmp_path / "bad.py"
    bad.write_text("def get_sweep():\n    return 3\n")
    with pytest.raises(ConfigError, match="returned int, expected a Sweep"):
        sweeping.run(bad, tmp_path / "runs")
