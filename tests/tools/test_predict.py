"""tools.predict gives what the run's own evaluation predicted, for files of any size, texts and pipes."""

import gzip
import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_configs
from published import bert

import finetune
from tasks import predictions
from tools import predict
from tools.predictor import Predictor
from training import cli, preemption, run_directory

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
OPTIONS = {  # of each run: pairs, averaged parameters, an early best step
    "encoder": {"evaluation__batch_size": 8},
    "decoder": {"training__ema_decay": 0.5, "task__text_pair_column": "other"},
    "encoder_decoder": {"evaluation__select": "last"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    for architecture in ARCHITECTURES:
        tiny_configs.untrained(folder / f"{architecture}-start", architecture)
        labels = folder / f"{architecture}-labels"
        labels.mkdir()
        tiny_configs.labeled(labels, rows=50, pairs=architecture == "decoder")
        config = tiny_configs.finetuning(
            labels, folder / f"{architecture}-start", optimizer__learning_rate=0.03,
            **OPTIONS[architecture],
        )  # fmt: skip
        finetune.run(config, str(folder / architecture))
    return folder


def execute(capsys, *words):
    """(status, standard output, standard error) of a command line."""
    try:
        cli.main(predict.main, list(map(str, words)), console=sys.stderr)
        status = 0
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def records(text):
    """The objects of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def small_parts(monkeypatch):
    """Files are read in parts of 16 rows at a batch size of 8, of 32 at 16."""
    monkeypatch.setattr(predict, "BATCHES", 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_gets_the_predictions_that_the_run_wrote(folder, architecture, capsys, small_parts):
    run, file = folder / architecture, folder / f"{architecture}-labels/test.tsv"
    written = (run / "predictions_test.tsv").read_text()
    assert (
        written.count("\n") == 51
        and len({line.split("\t")[3] for line in written.splitlines()}) > 40
    )
    flags = (f"--run={run}", f"--file={file}", "--format=tsv")
    status, out, err = execute(capsys, *flags, "--score")
    scores = json.loads((run / "scores.json").read_text())
    assert status == 0 and out == written
    assert f"at step {scores['step']}: accuracy {scores['test/accuracy']:.4f}" in err
    # In parts and in batches of several lengths, without reading the labels; sums have another order.
    status, out, err = execute(capsys, *flags, "--config.evaluation.batch_size=8")
    rows = [line.split("\t") for line in written.splitlines()]
    found = [line.split("\t") for line in out.splitlines()]
    assert status == 0 and "50 predictions" in err and len(found) == len(rows)
    assert found[0] == rows[0][:1] + rows[0][2:]
    for row, expected in zip(found[1:], rows[1:], strict=True):
        assert row[:2] + row[4:] == expected[:1] + expected[2:3] + expected[5:]
        np.testing.assert_allclose(
            [float(p) for p in row[2:4]], [float(p) for p in expected[3:5]], atol=3e-6
        )


def test_a_run_with_an_adapter_predicts_what_it_wrote(folder, tmp_path, capsys):
    labels, run = folder / "encoder-labels", tmp_path / "lora"
    config = tiny_configs.finetuning(
        labels, folder / "encoder-start", adapter__name="lora", optimizer__learning_rate=0.1
    )
    finetune.run(config, str(run))
    written = (run / "predictions_test.tsv").read_text()
    flags = (f"--run={run}", f"--file={labels}/test.tsv", "--format=tsv", "--score")
    status, out, _ = execute(capsys, *flags)
    assert status == 0 and out == written


def test_texts_pipes_and_compressed_files_of_every_format_get_the_same(
    folder, tmp_path, capsys, monkeypatch, small_parts
):
    run, labels = folder / "encoder", folder / "encoder-labels"
    texts = [line.split("\t")[0] for line in (labels / "test.tsv").read_text().splitlines()[1:]]
    status, out, _ = execute(capsys, f"--run={run}", f"--file={labels}/test.tsv")
    expected = records(out)
    assert [row["row"] for row in expected] == [*range(2, 52)]  # lines of the file
    assert [row["text"] for row in expected] == texts

    def same(out, first=1):
        rows = records(out)
        assert [row["row"] for row in rows] == [*range(first, first + len(texts))]
        for row, other in zip(rows, expected, strict=True):
            assert row["probabilities"] == pytest.approx(other["probabilities"], abs=3e-6)
            changed = {"row": 0, "probabilities": {}}
            assert row | changed == other | changed

    standard_input = "".join(f"{text}\r\n" for text in texts).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(standard_input)))
    same(execute(capsys, f"--run={run}")[1])
    (tmp_path / "new.txt").write_bytes(standard_input + b"\n  \n")
    status, out, err = execute(capsys, f"--run={run}", f"--file={tmp_path}/new.txt")
    same(out)
    assert "new.txt: 2 blank lines are skipped" in err
    same(execute(capsys, f"--run={run}", *texts[:2], *(f"--text={text}" for text in texts[2:]))[1])
    lines = "".join(json.dumps({"sentence": text, "n": [1]}) + "\n" for text in texts)
    with gzip.open(tmp_path / "new.jsonl.gz", "wt") as file:
        file.write(lines)
    same(execute(capsys, f"--run={run}", f"--file={tmp_path}/new.jsonl.gz")[1])
    (tmp_path / "new.csv").write_text("id,review\n" + "".join(f'1,"{text}"\n' for text in texts))
    flags = (f"--file={tmp_path}/new.csv", "--config.task.text_column=review")
    same(execute(capsys, f"--run={run}", *flags)[1], first=2)


def test_several_files_are_numbered_through_and_named(folder, tmp_path, capsys, small_parts):
    for name, count in (("a", 20), ("b", 3)):
        (tmp_path / f"{name}.tsv").write_text("sentence\n" + "the river\n" * count)
    flags = (
        f"--run={folder}/encoder",
        f"--file={tmp_path}/*.tsv",
        f"--output={tmp_path}/new.jsonl",
    )
    status, out, err = execute(capsys, *flags)
    rows = records((tmp_path / "new.jsonl").read_text())
    assert status == 0 and not out and "23 predictions" in err
    assert [row["id"] for row in rows] == [*range(23)]
    assert [row["row"] for row in rows] == [*range(2, 22), 2, 3, 4]
    assert [row["file"][-5:] for row in rows] == ["a.tsv"] * 20 + ["b.tsv"] * 3


def test_a_row_without_a_text_has_no_prediction_and_keeps_its_place(folder, tmp_path, capsys):
    (tmp_path / "new.jsonl").write_text(
        '{"sentence": ""}\n{"sentence": "the river"}\n{"sentence": null}\n'
    )
    flags = (f"--run={folder}/encoder", f"--file={tmp_path}/new.jsonl")
    status, out, err = execute(capsys, *flags)
    first, second, third = records(out)
    assert status == 0 and "2 rows have no text and no prediction" in err
    assert second["prediction"] in ("dry", "wet") and "error" not in second
    for number, row in ((0, first), (2, third)):
        assert row == {
            "id": number, "prediction": None, "probabilities": {"dry": None, "wet": None},
            "row": number + 1, "text": None, "error": "column 'sentence' has no value",
        }  # fmt: skip
    lines = execute(capsys, *flags, "--format=tsv")[1].splitlines()
    assert lines[0] == "id\tprediction\tp(dry)\tp(wet)\trow\ttext"
    assert (
        lines[1] == "0\t\t\t\t1\t" and lines[3] == "2\t\t\t\t3\t" and lines[2].endswith("the river")
    )
    status, out, _ = execute(capsys, f"--run={folder}/encoder", "--text= ")
    assert status == 0 and records(out)[0]["prediction"] is None


def test_tabs_quotes_and_line_ends_of_a_text_stay_in_its_line(folder, tmp_path, capsys):
    text = 'a "quoted" river\twith\ttabs\nand \\n lines\u2028"'
    (tmp_path / "new.jsonl").write_text(json.dumps({"sentence": text}) + "\n")
    flags = (f"--run={folder}/encoder", f"--file={tmp_path}/new.jsonl")
    out = execute(capsys, *flags, "--format=tsv")[1]
    header, line = out.splitlines()
    assert header.count("\t") == line.count("\t")
    assert line.split("\t")[-1] == 'a "quoted" river\\twith\\ttabs\\nand \\\\n lines\\u2028"'
    assert records(execute(capsys, *flags)[1])[0]["text"] == text


def test_ctrl_c_leaves_whole_lines_of_the_parts_before_it(
    folder, tmp_path, capsys, monkeypatch, small_parts
):
    parts, compute = [], Predictor.predict

    def interrupted(self, examples, report):
        parts.append(len(examples))
        if len(parts) == 3:
            raise KeyboardInterrupt
        return compute(self, examples, report)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    output = tmp_path / "new.tsv"
    flags = (
        f"--run={folder}/encoder",
        f"--file={folder}/encoder-labels/test.tsv",
        f"--output={output}",
    )
    status, out, err = execute(capsys, *flags)
    assert status == 130 and parts == [16] * 3  # never more than a part is in memory
    assert err.splitlines()[-1] == "error: interrupted; 32 predictions are written"
    assert output.read_text().count("\n") == 33 and output.read_text().endswith("\n")


@pytest.mark.slow
def test_ctrl_c_of_a_program_leaves_whole_lines(folder, tmp_path):
    (tmp_path / "new.tsv").write_text("sentence\n" + "the river and the light\n" * 500_000)
    command = [sys.executable, "-m", "tools.predict", f"--run={folder}/encoder",
               f"--file={tmp_path}/new.tsv", f"--output={tmp_path}/out.tsv"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    output, started = tmp_path / "out.tsv", time.monotonic()
    while not output.exists() or output.stat().st_size < 100_000:
        assert process.poll() is None and time.monotonic() - started < 300
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    lines = output.read_text().splitlines(keepends=True)
    assert process.returncode == 130 and "Traceback" not in err
    assert err.splitlines()[-1] == f"error: interrupted; {len(lines) - 1:,} predictions are written"
    assert len({line.count("\t") for line in lines}) == 1 and lines[-1].endswith("light\n")


@pytest.fixture
def python_interrupts():
    """SIGINT as Python starts with it in a terminal: a program in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_interrupts")
def test_an_interrupt_while_lines_are_written_waits_for_their_end():
    steps = []
    with pytest.raises(KeyboardInterrupt), preemption.deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        steps.append("written")
    assert steps == ["written"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), preemption.deferred_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a second one ends what cannot be written
        steps.append("never")
    assert steps == ["written"]


def test_a_step_may_be_named_and_the_default_is_the_scored_one(folder, capsys):
    run = folder / "encoder_decoder"  # scored at its last step
    texts = ("--text=the river", "--text=music in winter")
    probabilities = {}
    for words in ((f"--run={run}",), (f"--run={run}@2",), (f"--run={run}", "--step=0")):
        status, out, err = execute(capsys, *words, *texts)
        assert status == 0 and f"at step {0 if '--step=0' in words else 2}:" in err
        probabilities[words[-1][-2:]] = out
    assert probabilities["@2"] == probabilities["er"] != probabilities["=0"]


def test_a_published_classifier_needs_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    home = bert(tmp_path / "bert", classes=("wet", "dry"))
    status, out, _ = execute(capsys, f"--run={home}", "--text=the quick fox", "--text=hello")
    first, second = records(out)
    assert status == 0 and first["probabilities"].keys() == {"wet", "dry"}
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert first["probabilities"] != second["probabilities"]
    home = bert(tmp_path / "headless")
    status, _, err = execute(capsys, f"--run={home}", "--text=hello")
    assert status == 1 and "has no head of a task" in err and err.count("\n") < 3


BAD = {
    "absent": (b"review\tlabel\na\twet\n", "no column 'sentence'"),
    "encoding": (
        b"sentence\tlabel\na b\twet\n\xff\twet\n",
        "new.tsv is not UTF-8 at byte 23 (line 3)",
    ),
    "fields": (b"sentence\tlabel\na\twet\nb\n", "new.tsv has 1 fields at line 3"),
    "empty": (b"", "new.tsv is empty"),
    "header": (b"sentence\tlabel\na\twet\nsentence\tlabel\n", "repeats its header at line 3"),
    "nul": (b"sentence\tlabel\na\0\twet\n", "NUL byte"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_the_place(folder, tmp_path, capsys, name):
    content, message = BAD[name]
    (tmp_path / "new.tsv").write_bytes(content)
    for words in ((), ("--score",)):
        flags = (f"--run={folder}/encoder", f"--file={tmp_path}/new.tsv", *words)
        status, out, err = execute(capsys, *flags)
        assert status == 1 and message in err.splitlines()[-1] and not out
        assert err.count("error:") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run={}/none", "a"), "none' is not a run directory"),
        (("--run={}/encoder-start", "a"), "has no head of a task: it was pretrained; finetune it first"),
        (("--run={}/encoder@7", "a"), "has no checkpoint 7; it has [0, 1, 2]"),
        (("--run={}/encoder", "--file={}/none.tsv"), "no file matches"),
        (("--run={}/encoder", "--file={}/x", "a"), "--file and texts exclude each other"),
        (("--run={}/encoder", "a", "--text_pair=b"), "this run reads sentence, but 2 of them are given"),
        (("--run={}/decoder", "a"), "this run reads sentence and other, but 1 of them is given"),
        (("--run={}/decoder", "a", "b", "--text_pair=c"), "2 texts and 1 --text_pair"),
        (("--run={}/decoder",), "a line of standard input is one text"),
        (("--run={}/encoder", "a", "--score"), "--score reads labels, which only files have"),
        (("--run={}/encoder", "a", "--output={}/new.csv"), "expected a .tsv or .jsonl file"),
        (("--run={}/encoder", "a", "--output={}/none/new.tsv"), "is not a directory; create it"),
        (("--run={}/encoder", "--file={}/encoder-labels/test.tsv",
          "--output={}/encoder-labels/test.tsv"), "is one of the files to read"),
        (("--run={}/encoder", "a", "--output={}/encoder-labels/test.tsv"), "exists; remove it, or name"),
        (("--run={}/encoder", "a", "--config.optimizer.name=lion"), "is not a choice of predictions"),
        (("--run={}/encoder", "a", "--config.task.txt_column=b"), "did you mean config.task.text_column"),
        (("--run={}/encoder", "a", "--config.task.max_seq_len=2"), "out of range"),
        (("--text=a",), "--run"),
        (("--run={}/encoder", "a", "--fromat=tsv"), "did you mean --format?"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line(folder, capsys, words, message):
    status, out, err = execute(capsys, *(word.format(folder) for word in words))
    assert status == 1 and message in err.splitlines()[-1] and not out
    assert "Traceback" not in err and len(err.splitlines()[-1]) < 420


def test_labels_that_the_run_does_not_know_are_read_by_score_alone(folder, tmp_path, capsys):
    (tmp_path / "new.tsv").write_text("sentence\tlabel\nthe river\twett\nlight\t\n")
    flags = (f"--run={folder}/encoder", f"--file={tmp_path}/new.tsv")
    assert execute(capsys, *flags)[0] == 0
    status, _, err = execute(capsys, *flags, "--score")
    assert status == 1 and "new.tsv at line 3 has no value in column 'label'" in err
    status, _, err = execute(capsys, *flags, "--score", "--config.task.missing=drop")
    assert status == 1 and "'wett' is not in the training split" in err


def test_invalid_standard_input_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\xff\n")))
    status, out, err = execute(capsys, f"--run={folder}/encoder")
    assert status == 1 and "standard input is not UTF-8 at line 2" in err and not out


def test_a_run_without_scores_is_read_at_its_newest_step(folder, tmp_path):
    assert run_directory.scored_step(tmp_path) == ""
    assert run_directory.scored_step(folder / "encoder_decoder") == "2"


def test_predictions_of_a_file_without_rows_are_none(tmp_path):
    assert list(predictions.lines([], "tsv")) == []


@pytest.mark.parametrize(
    ("name", "architecture", "file"),
    [
        ("regression", "decoder", "test.tsv"),
        ("multi_label", "encoder", "test.tsv"),
        ("multiple_choice", "encoder_decoder", "test.tsv"),
        ("tagging", "encoder", "test.conll"),
        ("question_answering", "encoder", "test-v2.0.json"),
        ("seq2seq", "encoder_decoder", "test.tsv"),
        ("text_to_text", "decoder", "test.tsv"),
    ],
)
def test_every_task_predicts_what_its_run_wrote(folder, tmp_path, capsys, name, architecture, file):
    start, run = folder / f"{architecture}-start", tmp_path / "run"
    finetune.run(tiny_configs.finetuning(tmp_path, start, f"configs/finetune/{name}.py"), str(run))
    suffix = "jsonl" if name in ("tagging", "question_answering") else "tsv"
    flags = (f"--run={run}", f"--file={tmp_path}/{file}", f"--format={suffix}", "--score")
    status, out, _ = execute(capsys, *flags)
    assert status == 0
    if name == "question_answering":  # the run has a file in SQuAD's format
        answers = {record["id"]: record["prediction"] for record in records(out)}
        assert answers == json.loads((run / "predictions_test.json").read_text())
    else:
        assert out == (run / f"predictions_test.{suffix}").read_text()
