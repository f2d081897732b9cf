"""Every bad input is an error of one line that names the value and the remedy, and loses nothing."""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import pytest
import tiny_configs

import train
from training import checkpoint, cli, run_directory
from training import config as config_lib
from training.config import ConfigError
from training.metric_writer import MetricWriter

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    train.run(tiny_configs.pretraining(folder), str(folder / "good"))
    return folder


def error_of(function, *arguments):
    """The message of the error, which must be one line."""
    with pytest.raises((ConfigError, ValueError, FileNotFoundError)) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def contents(run):
    return {p.relative_to(run): p.read_bytes() for p in pathlib.Path(run).rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optimizer.learning_rte", "1e-3", "did you mean config.optimizer.learning_rate?"),
        ("model.num_layers", "many", "config.model.num_layers='many' has the wrong type"),
        ("model.layers", "2", "unknown key config.model.layers; did you mean"),
        ("optimizer.beta1", "1.5", "config.optimizer.beta1=1.5 is out of range; expected between"),
        ("model.num_layers", "1e99", "is out of range; expected between 1 and 10000"),
        (
            "training.batch_size",
            "99999999999",
            "is out of range; expected between 1 and 2147483647",
        ),
        ("optimizer.beta1.x", "1", "config.optimizer.beta1 is a field, not a section"),
        (
            "model.num_heads",
            "3",
            "model.num_heads=3, emb_dim=32: num_heads must divide emb_dim; choose",
        ),
        (
            "training.duration",
            "2 fortnights",
            "unit 'fortnights' cannot be used here; expected one of",
        ),
        ("mesh.data", "3", "does not fit"),
        ("training.batch_size", "6", "batch_size=6 does not divide"),
        ("data.source", "text:/nowhere/*.txt", "/nowhere/*.txt"),
        ("data.source", "txt:a", "txt:a"),
        ("init_from", "/nowhere", "'/nowhere' is not a run directory"),
        ("init_stacks", "encoder", "set init_from, or leave init_stacks out"),
        ("freeze", "('decodr/.*',)", "config.freeze='decodr/.*' matches no parameter"),
        ("objective.name", "masked_lm", "masked_lm does not support architecture 'decoder'"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(folder, key, value, expected):
    config = tiny_configs.pretraining(folder, **{key.replace(".", "__"): value})
    assert expected in error_of(train.run, config, str(folder / "unused"))


def test_an_empty_corpus_and_invalid_utf8_are_named(folder, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n  \n")
    config = tiny_configs.pretraining(folder, data__source=f"text:{empty}")
    assert "empty.txt" in error_of(train.run, config, str(folder / "unused"))
    wrong = tmp_path / "latin1.txt"
    wrong.write_bytes("caf\xe9 au lait\n".encode("latin-1"))
    config = tiny_configs.pretraining(folder, data__source=f"text:{wrong}")
    message = error_of(train.run, config, str(folder / "unused"))
    assert "latin1.txt" in message and "UTF-8" in message


def test_a_document_of_any_length_is_read(folder, tmp_path):
    (tmp_path / "long.txt").write_text("river stone light " * 30_000 + "\n\nshort one\n\n" * 30)
    config = tiny_configs.pretraining(folder, data__source=f"text:{tmp_path}/long.txt")
    assert train.run(config, str(tmp_path / "run")).step == 2


def test_a_workdir_of_another_config_is_an_error_that_shows_the_difference(folder):
    before = contents(folder / "good")
    config = tiny_configs.pretraining(folder, optimizer__learning_rate="0.5")
    message = error_of(train.run, config, str(folder / "good"))
    assert "optimizer.learning_rate: 0.002 -> 0.5" in message
    assert contents(folder / "good") == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "config.json is not readable JSON"),
        ("config.json", '{"kind": "pretrain"}', "config.json has no 'config' or no 'model'"),
        ("manifest.json", "{", "manifest.json is not readable JSON"),
        ("manifest.json", "3", "manifest.json is not readable JSON"),
    ],
)
def test_a_damaged_record_of_a_run_is_named(folder, tmp_path, file, content, message):
    run = shutil.copytree(folder / "good", tmp_path / "run")
    (run / file).write_text(content)
    assert message in error_of(train.run, tiny_configs.pretraining(folder), str(run))


def test_strange_files_in_a_run_are_no_part_of_it(folder, tmp_path):
    run = shutil.copytree(folder / "good", tmp_path / "run")
    (run / "checkpoints/0007").mkdir()
    before = tiny_configs.metrics(run)
    damaged = "\ufeffxx\n3\n\0\0\n" + (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(damaged)
    assert train.run(tiny_configs.pretraining(folder), str(run)).step == 2
    assert tiny_configs.metrics(run)[: len(before)] == before


def test_text_that_changed_since_the_run_started_is_an_error_and_nothing_is_overwritten(
    folder, tmp_path
):
    shutil.copy(folder / "corpus.txt", tmp_path)
    config = tiny_configs.pretraining(tmp_path)
    train.run(config, str(tmp_path / "run"))
    before = contents(tmp_path / "run")
    with (tmp_path / "corpus.txt").open("a") as file:
        file.write("\n\none more document about a river\n")
    message = error_of(train.run, config, str(tmp_path / "run"))
    assert "changed since the run started" in message
    assert contents(tmp_path / "run") == before


def test_two_programs_in_one_workdir_are_an_error(folder):
    with MetricWriter(folder / "good", tensorboard=False):
        message = error_of(train.run, tiny_configs.pretraining(folder), str(folder / "good"))
    assert "another program is using" in message


def test_a_checkpoint_that_storage_cannot_read_is_not_renamed(folder, tmp_path):
    """Only a corrupt file is. Here a directory in the place of a file raises IsADirectoryError."""
    run = tmp_path / "unreadable"
    shutil.copytree(folder / "good", run)
    state = run / "checkpoints/2/state/metadata"
    state.unlink()
    state.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        train.run(tiny_configs.pretraining(folder), str(run))
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"0", "1", "2"}
    state.rmdir()
    shutil.copy(folder / "good/checkpoints/2/state/metadata", state)
    assert train.run(tiny_configs.pretraining(folder), str(run)).step == 2


def test_an_interval_may_change_between_starts(folder):
    config = tiny_configs.pretraining(folder, logging__every="2 steps", checkpoint__max_to_keep=3)
    assert train.run(config, str(folder / "good")).step == 2


@pytest.mark.parametrize(
    "names",
    [["train.tsv"], ["tokenizer.json"], ["manifest.json"], ["model.safetensors", "run.log"],
     ["catalog.txt"], ["enc"], ["a.py", "b.py", "c.py", "d.py"]],
)  # fmt: skip
def test_a_workdir_that_holds_something_else_is_an_error_and_stays_as_it_is(
    folder, tmp_path, names
):
    run = tmp_path / "run"
    run.mkdir()
    for name in names:
        (run / name).write_text("{}")
    before = contents(run)
    message = error_of(train.run, tiny_configs.pretraining(folder), str(run))
    assert "is not empty and holds no run" in message and names[0] in message
    assert contents(run) == before


def test_a_workdir_with_what_a_launch_leaves_is_accepted(tmp_path):
    names = [".git", "run.log", "train_log.txt", "slurm-12.out", "12_submitted.pkl", "12_submission.sh",
             "12_0_log.out", "nohup.out", "stderr.txt"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    for name in ("checkpoints", "logs", "wandb"):
        (tmp_path / name).mkdir()
    assert run_directory.open_run(str(tmp_path), "pretrain") == tmp_path


def test_a_workdir_below_a_regular_file_is_an_error(folder):
    run = str(folder / "corpus.txt" / "run")
    message = error_of(train.run, tiny_configs.pretraining(folder), run)
    assert "cannot be a directory" in message and "corpus.txt" in message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model__emb_dim": 64}, "model.emb_dim is 32 there and 64 here"),
        ({"model__positions": "learned"}, "model.positions is 'rope' there and 'learned' here"),
        ({"tokenizer__vocab_size": 600}, "another tokenizer"),
    ],
)
def test_parameters_of_another_model_or_tokenizer_are_an_error(folder, overrides, expected):
    config = tiny_configs.pretraining(folder, init_from=str(folder / "good"), **overrides)
    run = folder / f"other-{'-'.join(overrides)}"
    assert expected in error_of(train.run, config, str(run))


def test_a_corrupt_source_of_parameters_is_named(folder):
    shutil.copytree(folder / "good", folder / "corrupt")
    for file in (folder / "corrupt/checkpoints/2/params").rglob("_METADATA"):
        file.write_text(file.read_text()[:40])
    config = tiny_configs.pretraining(folder, init_from=str(folder / "corrupt"))
    message = error_of(train.run, config, str(folder / "from-corrupt"))
    assert "corrupt/checkpoints/2/params cannot be read" in message and "@STEP" in message


def test_a_step_that_does_not_exist_names_those_that_do(folder):
    config = tiny_configs.pretraining(folder, init_from=f"{folder}/good@7")
    message = error_of(train.run, config, str(folder / "unused"))
    assert "has no checkpoint 7; it has [0, 1, 2]" in message


def test_a_run_may_have_a_number_as_its_name(tmp_path):
    tiny_configs.untrained(tmp_path / "2024", "decoder")
    assert checkpoint.resolve_checkpoint(tmp_path / "2024") == (tmp_path / "2024", 0)
    assert checkpoint.split_step("2024") == ("2024", "")
    assert checkpoint.split_step("runs/a@b@20") == ("runs/a@b", "20")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "", "a.txt' is not a Python file: its name does not end in .py"),
        ("a.py", "import sys\nsys.exit(0)", "a.py' fails in line 2: SystemExit: 0; correct it"),
        ("a.py", "raise OSError(5, 'x')", "a.py' fails in line 1: OSError: "),
        ("a.py", "def get_config(:", "a.py' fails in line 1: SyntaxError: invalid syntax"),
    ],
)
def test_a_config_file_that_fails_is_named(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(expected)):
        config_lib.load_config_file(str(tmp_path / name))


def test_an_error_of_the_operating_system_names_its_file(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file/below", "missing/below", "x" * 300):
        with pytest.raises(OSError) as caught:
            (tmp_path / path).read_text()
        message = cli.explain(caught.value)
        assert message.startswith(f"cannot use {tmp_path}") and "name another path" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config=configs/decoder.py"], "--workdir"),
        (["--config=configs/decoder.py", "--workdir=--"], "argument --workdir: invalid value '--'"),
        (["--confg=configs/decoder.py", "--workdir=x"], "--config"),
        (["--config=configs/decodr.py", "--workdir=x"], "such as configs/decoder.py"),
        (["--config=configs/decoder.py:sise=tiny", "--workdir=x"], "'sise=tiny'"),
        (["--config=configs/decoder.py:size=huge", "--workdir=x"], "'huge'"),
        (["--config=configs/decoder.py", "--workdir=x", "--workdri=y"], "did you mean --workdir?"),
        (["--config=configs/decoder.py", "--workdir=x", "--config.seed.data"], "has no value"),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_1(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(train.main, arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert expected in error and error.count("\n") == 1


def test_a_full_disk_is_one_line_and_saved_checkpoints_stay(folder):
    """The size of a file is limited below that of a checkpoint (RLIMIT_FSIZE)."""
    run = folder / "full"
    config = tiny_configs.pretraining(
        folder, training__duration="4 steps", model__emb_dim=128, model__mlp_dim=512
    )
    command = [sys.executable, "train.py", "--config=configs/decoder.py", f"--workdir={run}",
               *tiny_configs.flags(config)]  # fmt: skip
    pipes = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 200}

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(command, preexec_fn=limit, **pipes, env={
        **os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"})  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "the disk is full or a file would be too large" in errors[0], errors[0]
    done = subprocess.run(command, **pipes)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line["step"] for line in tiny_configs.metrics(run) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4]


def test_a_run_directory_is_complete_and_readable(folder):
    manifest = json.loads((folder / "good/manifest.json").read_text())
    for key in ("commit", "versions", "devices", "cores", "command", "data", "tokenizer", "seed"):
        assert key in manifest
    assert (folder / "good/tokenizer.json").is_file()
    record = json.loads((folder / "good/config.json").read_text())
    assert record["model"]["vocab_size"] > 0
