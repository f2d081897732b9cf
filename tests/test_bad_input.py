"""Every bad input is one line that names the value and the remedy, and loses nothing."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import pytest
import shrink

import train
from training import checkpoint, cli, logs
from training.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bad")
    train.run(shrink.pretraining(made), str(made / "good"))
    return made


def refused(function, *arguments):
    """The message of the error, which has to be one line."""
    with pytest.raises((ConfigError, ValueError, FileNotFoundError)) as caught:
        function(*arguments)
    words = str(caught.value)
    assert "\n" not in words and len(words) < 700
    return words


def contents(run):
    return {p.relative_to(run): p.read_bytes() for p in pathlib.Path(run).rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optimizer.learning_rte", "1e-3", "did you mean config.optimizer.learning_rate?"),
        ("model.layers", "many", "config.model.layers='many' has the wrong type"),
        ("optimizer.beta1", "1.5", "config.optimizer.beta1=1.5 is out of range; expected between"),
        ("model.heads", "3", "model.heads=3 does not divide model.width=32"),
        (
            "training.duration",
            "2 fortnights",
            "unit 'fortnights' means nothing here; expected one of",
        ),
        ("mesh.data", "3", "does not fit"),
        ("training.batch_size", "6", "batch_size=6 does not divide"),
        ("data.source", "text:/nowhere/*.txt", "/nowhere/*.txt"),
        ("data.source", "txt:a", "txt:a"),
        ("init_from", "/nowhere", "'/nowhere' is not a run directory"),
        ("init_as", "encoder", "set config.init_from, or leave it out"),
        ("objective.name", "masked_lm", "masked_lm does not fit architecture 'decoder'"),
    ],
)
def test_a_bad_leaf_is_named_with_its_remedy(folder, key, value, words):
    config = shrink.pretraining(folder, **{key.replace(".", "__"): value})
    if key == "objective.name":
        config.objective = {"name": value}
    if key == "training.batch_size":
        config.mesh = {"data": -1}
    assert words in refused(train.run, config, str(folder / "unused"))


def test_an_empty_corpus_and_invalid_utf8_are_named(folder, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n  \n")
    config = shrink.pretraining(folder, data__source=f"text:{empty}")
    assert "empty.txt" in refused(train.run, config, str(folder / "unused"))
    wrong = tmp_path / "latin1.txt"
    wrong.write_bytes("caf\xe9 au lait\n".encode("latin-1"))
    config = shrink.pretraining(folder, data__source=f"text:{wrong}")
    words = refused(train.run, config, str(folder / "unused"))
    assert "latin1.txt" in words and "UTF-8" in words


def test_a_document_longer_than_anything_is_just_read(folder, tmp_path):
    (tmp_path / "long.txt").write_text("river stone light " * 30_000 + "\n\nshort one\n\n" * 30)
    config = shrink.pretraining(folder, data__source=f"text:{tmp_path}/long.txt")
    assert train.run(config, str(tmp_path / "run")).step == 2


def test_a_workdir_of_another_config_is_refused_with_the_difference_and_untouched(folder):
    before = contents(folder / "good")
    config = shrink.pretraining(folder, optimizer__learning_rate="0.5")
    words = refused(train.run, config, str(folder / "good"))
    assert "optimizer.learning_rate: 0.002 -> 0.5" in words
    assert contents(folder / "good") == before


def test_text_that_changed_since_the_run_began_is_refused_and_nothing_is_overwritten(tmp_path):
    config = shrink.pretraining(tmp_path)
    train.run(config, str(tmp_path / "run"))
    before = contents(tmp_path / "run")
    with (tmp_path / "corpus.txt").open("a") as file:
        file.write("\n\none more document about a river\n")
    words = refused(train.run, config, str(tmp_path / "run"))
    assert "changed since it began" in words
    assert contents(tmp_path / "run") == before


def test_two_programs_in_one_workdir_are_refused(folder):
    with logs.Metrics(folder / "good", tensorboard=False):
        words = refused(train.run, shrink.pretraining(folder), str(folder / "good"))
    assert "another program is at work" in words


def test_storage_trouble_sets_no_checkpoint_aside(folder, monkeypatch):
    """Only what says that a file is torn does; a device that cannot be read is reported."""

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "_read_tree", broken)
    with pytest.raises(OSError, match="Input/output"):
        train.run(shrink.pretraining(folder), str(folder / "good"))
    monkeypatch.undo()
    assert train.run(shrink.pretraining(folder), str(folder / "good")).step == 2


def test_a_cadence_may_change_between_starts(folder):
    config = shrink.pretraining(folder, logging__every="2 steps", checkpoint__keep=3)
    assert train.run(config, str(folder / "good")).step == 2


def test_a_workdir_below_a_regular_file_is_refused(folder):
    words = refused(train.run, shrink.pretraining(folder), str(folder / "corpus.txt" / "run"))
    assert "cannot be a directory" in words and "corpus.txt" in words


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"model__width": 64}, "does not fit"),
        ({"model__positions": "learned"}, "model.positions is 'rotary' there and 'learned' here"),
        ({"tokenizer__vocab_size": 600}, "another tokenizer"),
    ],
)
def test_parameters_of_another_network_or_tokenizer_are_refused(folder, overrides, words):
    config = shrink.pretraining(folder, init_from=str(folder / "good"), **overrides)
    name = folder / ("other-" + "-".join(overrides))
    assert words in refused(train.run, config, str(name))


def test_a_torn_source_of_parameters_is_named(folder):
    shutil.copytree(folder / "good", folder / "torn")
    for file in (folder / "torn/checkpoints/2/params").rglob("_METADATA"):
        file.write_text(file.read_text()[:40])
    config = shrink.pretraining(folder, init_from=str(folder / "torn"))
    words = refused(train.run, config, str(folder / "from-torn"))
    assert "torn/checkpoints/2/params cannot be read" in words and "@STEP" in words


def test_a_step_that_does_not_exist_names_those_that_do(folder):
    config = shrink.pretraining(folder, init_from=f"{folder}/good@7")
    assert "has no checkpoint 7; it has [0, 1, 2]" in refused(train.run, config, str(folder / "x"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config=configs/decoder.py"], "--workdir"),
        (["--confg=configs/decoder.py", "--workdir=x"], "--config"),
        (["--config=configs/decodr.py", "--workdir=x"], "such as configs/decoder.py"),
        (["--config=configs/decoder.py:sise=tiny", "--workdir=x"], "'sise=tiny'"),
        (["--config=configs/decoder.py:size=huge", "--workdir=x"], "'huge'"),
        (["--config=configs/decoder.py", "--workdir=x", "--workdri=y"], "did you mean --workdir?"),
        (["--config=configs/decoder.py", "--workdir=x", "--config.seed.order"], "has no value"),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_1(words, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(train.main, words)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert expected in error and error.count("\n") == 1


def test_a_full_disk_is_one_line_and_what_was_saved_stays(folder):
    """Files may not grow beyond a size that the checkpoints exceed (RLIMIT_FSIZE)."""
    run = folder / "full"
    config = shrink.pretraining(folder, training__duration="4 steps", model__width=128,
                                model__mlp_size=512)  # fmt: skip
    words = [
        sys.executable,
        "train.py",
        "--config=configs/decoder.py",
        f"--workdir={run}",
        *shrink.flags(config),
    ]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True,
                          preexec_fn=limit, timeout=120)  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "disk" in errors[0] or "File too large" in errors[0], errors[0]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line["step"] for line in shrink.metrics(run) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4]


def test_a_run_directory_is_complete_and_readable(folder):
    manifest = json.loads((folder / "good/manifest.json").read_text())
    for key in ("commit", "versions", "devices", "cores", "command", "data", "tokenizer", "seed"):
        assert key in manifest
    assert (folder / "good/tokenizer.json").is_file()
    record = json.loads((folder / "good/config.json").read_text())
    assert record["model"]["vocab_size"] > 0
