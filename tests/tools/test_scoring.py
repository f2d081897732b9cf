"""tools.evaluate on tiny runs of the three architectures: tables, JSON, charts, resume, bad input."""

import dataclasses
import json
import pathlib
import resource

import jax
import numpy as np
import pytest
import tiny_configs
from tiny_configs import WORDS

import models
from tools import evaluate, scoring
from training.config import ConfigError

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {a: str(tiny_configs.untrained(folder / a, a)) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of each suite."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def text(low=2, high=9):
        return " ".join(random.choice(WORDS, random.integers(low, high)))

    def write(name, rows):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return str(folder / name)

    documents = "\n\n".join(text(3, 60) for _ in range(4)) + "\n"
    (folder / "text.txt").write_text(documents)
    pairs = [
        {"sentence_good": text(), "sentence_bad": text(), "UID": f"u{n % 3}", "linguistics_term": f"t{n % 2}"}
        for n in range(12)
    ]  # fmt: skip
    choices = [{"query": text(), "choices": [text(1, 3) for _ in range(2 + n % 3)], "gold": n % 2}
               for n in range(8)]  # fmt: skip
    contexts = [{"context_options": [text(), text()], "continuation": text(), "gold": n % 2}
                for n in range(3)]  # fmt: skip
    lambada = [{"context": text(), "continuation": str(random.choice(WORDS))} for _ in range(3)]
    return {
        "perplexity": str(folder / "text.txt"),
        "minimal_pairs": write("pairs.jsonl", pairs),
        "multiple_choice": write("choices.jsonl", choices),
        "contexts": write("contexts.jsonl", contexts),
        "lambada": write("lambada.jsonl", lambada),
    }


def run(run_dir, suite, *words):
    evaluate.main([f"--run={run_dir}", f"--suite={suite}", *words])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_answers_every_suite(architecture, runs, data, tmp_path, capsys):
    for suite in evaluate.TEXT:
        files = [data[suite]]
        if suite == "multiple_choice":
            files += [data["contexts"], *[data["lambada"]] * (architecture != "encoder")]
        out = tmp_path / f"{suite}.json"
        run(runs[architecture], suite, "--data", *files, f"--output={out}")
        printed, content = capsys.readouterr().out, json.loads(out.read_text())
        assert not (tmp_path / f"{suite}.json.partial").exists()
        assert (tmp_path / f"{suite}.png").read_bytes().startswith(b"\x89PNG")
        if suite == "perplexity":
            found = content["metrics"]["text.txt"]
            assert f"{found['bits_per_byte']:.4f}" in printed and len(content["items"]) == 4
            documents = pathlib.Path(files[0]).read_text(encoding="utf-8").split("\n\n")
            words = [len(text.split()) - (architecture == "decoder") for text in documents]
            assert [each["tokens"] for each in content["items"]] == words
        elif suite == "minimal_pairs":
            assert "macro 0." in printed and content["metrics"]["pairs"] == 12
            assert set(content["items"][0]) >= {
                "good",
                "bad",
                "correct",
                "paradigm",
                "phenomenon",
                "row",
            }
        else:
            assert set(content["metrics"]) == {f.rpartition("/")[2] for f in files}
            assert content["metrics"]["choices.jsonl"]["items"] == 8


def test_a_killed_command_continues_and_a_finished_one_is_not_computed_again(
    runs, data, tmp_path, monkeypatch, caplog
):
    out, plain = tmp_path / "out.json", tmp_path / "plain.json"
    run(runs["decoder"], "minimal_pairs", f"--data={data['minimal_pairs']}", f"--output={plain}")
    words = [f"--data={data['minimal_pairs']}", f"--output={out}"]
    monkeypatch.setattr(scoring, "BLOCK", 20)
    add, calls = scoring.Results.add, []

    def killed(self, found):
        add(self, found)
        calls.append(found)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring.Results, "add", killed)
    with pytest.raises(KeyboardInterrupt, match="6 items are in .*: the same command continues"):
        run(runs["decoder"], "minimal_pairs", *words)
    partial = tmp_path / "out.json.partial"
    assert len(partial.read_text().splitlines()) == 1 + 6 and not out.exists()
    with open(partial, "a", encoding="utf-8") as stream:
        stream.write('{"item": 11, "go')  # killed while it wrote
    monkeypatch.setattr(scoring.Results, "add", add)
    scored = []
    encode = scoring.encode_items
    monkeypatch.setattr(
        scoring, "encode_items", lambda s, i, n: scored.append(len(n)) or encode(s, i, n)
    )
    with caplog.at_level("INFO", logger="triptych"):
        run(runs["decoder"], "minimal_pairs", *words)
        run(runs["decoder"], "minimal_pairs", *words)
    assert scored == [6, 0] and "6 of 12 items are known" in caplog.text and not partial.exists()
    found, expected = json.loads(out.read_text()), json.loads(plain.read_text())
    assert found["metrics"] == pytest.approx(expected["metrics"])
    for one, other in zip(found["items"], expected["items"], strict=True):
        assert one.keys() == other.keys() and one["good"] == pytest.approx(other["good"], abs=1e-4)


@pytest.mark.parametrize("changed", ["data", "params", "options.limit", "scoring"])
def test_results_of_another_model_or_file_are_not_mixed(changed, runs, data, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    file = tmp_path / "pairs.jsonl"
    file.write_text(pathlib.Path(data["minimal_pairs"]).read_text(encoding="utf-8"))
    words = [f"--data={file}", f"--output={out}"]

    def stop(self, found):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scoring.Results, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            run(runs["decoder"], "minimal_pairs", *words)
    if changed == "data":
        file.write_text("\n".join(file.read_text().splitlines()[::-1]))
    if changed == "params":
        monkeypatch.setattr(scoring, "params_digest", lambda params: "another")
    words += {"options.limit": ["--limit=3"], "scoring": ["--start_token=[EOS]"]}.get(changed, [])
    with pytest.raises(
        ConfigError, match=f"with another {changed}.* .*remove it, or name another --output"
    ):
        run(runs["decoder"], "minimal_pairs", *words)


@pytest.mark.parametrize(
    ("source", "rows"),
    [("text:{}/*.txt", ("the river\n", "a stone\n")),
     ("jsonl:{}/*.jsonl", ('{"text": "the river"}\n', '{"text": "a stone"}\n'))],
)  # fmt: skip
def test_results_of_a_source_whose_files_changed_are_an_error(source, rows, runs, tmp_path):
    file, out = tmp_path / f"a.{source.rpartition('.')[2]}", tmp_path / "out.json"
    words = [f"--data={source.format(tmp_path)}", f"--output={out}"]
    file.write_text(rows[0])
    run(runs["decoder"], "perplexity", *words)
    before = out.read_bytes()
    run(runs["decoder"], "perplexity", *words)  # the same command
    file.write_text(rows[1])  # as many documents
    with pytest.raises(ConfigError, match="has results with another data.*: remove it, or name"):
        run(runs["decoder"], "perplexity", *words)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("run_name", "suite", "flags", "changed"),
    [
        ("encoder", "minimal_pairs", [], r"run \(.*/decoder at step 0.*, now .*/encoder at step 0"),
        ("decoder", "perplexity", [], r"suite \(.minimal_pairs., now .perplexity.\)"),
        ("decoder", "minimal_pairs", ["--limit=3"], r"options.limit \(0, now 3\)"),
        ("decoder", "minimal_pairs", ["--max_seq_len=8"], r"scoring.max_len \(64, now 8\)"),
    ],
)
def test_a_finished_result_is_not_replaced_by_another(
    runs, data, tmp_path, run_name, suite, flags, changed
):
    out = tmp_path / "out.json"
    run(runs["decoder"], "minimal_pairs", f"--data={data['minimal_pairs']}", f"--output={out}")
    before = out.read_bytes()
    expected = (
        rf"out.json has results with another {changed}.*: remove it, or name another --output"
    )
    with pytest.raises(ConfigError, match=expected) as error:
        run(runs[run_name], suite, f"--data={data[suite]}", f"--output={out}", *flags)
    assert out.read_bytes() == before and not out.with_name("out.json.partial").exists()
    assert len(str(error.value)) <= 400


def test_a_file_of_something_else_is_not_replaced(runs, data, tmp_path):
    out = tmp_path / "notes.json"
    out.write_text('{"mine": 1}')
    with pytest.raises(
        ConfigError, match="exists and has no results of this command; name another"
    ):
        run(runs["decoder"], "minimal_pairs", f"--data={data['minimal_pairs']}", f"--output={out}")
    assert out.read_text() == '{"mine": 1}'


def test_a_full_disk_and_a_foreign_partial_file_lose_nothing(tmp_path):
    out, partial = str(tmp_path / "x.json"), tmp_path / "x.json.partial"
    store = scoring.Results(out, {"run": "a"}, 9)
    store.add({0: {"good": 1.0}})
    store.close()
    before, limits = partial.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    again = None
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*x.json.partial"):
            again = scoring.Results(out, {"run": "a"}, 9)
            again.add({1: {"good": 2.0}})
        with pytest.raises(OSError, match="cannot write .*x.json.partial"):
            again.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert partial.read_bytes() == before
    again = scoring.Results(out, {"run": "a"}, 9)
    again.add({1: {"good": 2.0}})
    again.close()
    assert scoring.Results(out, {"run": "a"}, 2).known == {0: {"good": 1.0}, 1: {"good": 2.0}}
    for content in ("notes", "notes\n", "[1]\n", '{"run": "b"}\n'):
        partial.write_text(content)
        with pytest.raises(ConfigError, match="x.json.partial .*remove it"):
            scoring.Results(out, {"run": "a"}, 9)
        assert partial.read_text() == content


def test_a_limit_takes_evenly_spaced_items_of_each_file(runs, data, tmp_path):
    out = tmp_path / "out.json"
    run(
        runs["decoder"],
        "minimal_pairs",
        f"--data={data['minimal_pairs']}",
        "--limit=3",
        f"--output={out}",
    )
    assert [each["row"] for each in json.loads(out.read_text())["items"]] == [1, 5, 9]


def test_the_mesh_of_all_devices_gives_the_scores_of_one(runs, data, tmp_path, monkeypatch):
    found = []
    for name, devices in (("all", None), ("one", jax.devices()[:1])):
        out = tmp_path / f"{name}.json"
        with monkeypatch.context() as patch:
            if devices:
                make = scoring.sharding.make_mesh
                patch.setattr(
                    scoring.sharding, "make_mesh", lambda c, d=devices, make=make: make(c, d)
                )
            run(
                runs["encoder"],
                "minimal_pairs",
                f"--data={data['minimal_pairs']}",
                f"--output={out}",
            )
        found.append([each["good"] for each in json.loads(out.read_text())["items"]])
    np.testing.assert_allclose(*found, atol=1e-4)


def test_what_the_numbers_do_not_cover_is_logged(runs, data, tmp_path, caplog):
    with caplog.at_level("INFO", logger="triptych"):
        run(
            runs["decoder"],
            "multiple_choice",
            f"--data={data['multiple_choice']}",
            "--max_seq_len=6",
        )
        run(runs["decoder"], "perplexity", f"--data={data['perplexity']}")
    assert "contexts are longer than 6 positions and were cut at their start" in caplog.text
    assert "4 first tokens are not counted: nothing predicts them" in caplog.text
    assert "unknown" not in caplog.text
    file = tmp_path / "unknown.txt"
    file.write_text("the stone xyzzy")
    with caplog.at_level("INFO", logger="triptych"):
        run(runs["decoder"], "perplexity", f"--data={file}")
    assert "warning: the data: 33.33% of 3 tokens are unknown" in caplog.text


@pytest.mark.parametrize(
    ("suite", "words", "message"),
    [
        ("perplexity", ["--data=missing.txt"], "no file matches 'missing.txt'"),
        ("perplexity", ["--data={perplexity}", "--stride=99"], "--stride=99: a window scores at most"),
        ("perplexity", ["--data={perplexity}", "--stride=-1"], "--stride=-1 is negative"),
        ("perplexity", ["--data={perplexity}", "--max_seq_len=9999"], "the model has 64 positions"),
        ("perplexity", ["--data={perplexity}", "--field", "good=x"], "--field is for minimal_pairs, mult"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--stride=2"], "--stride is for perplexity; omit it"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--field", "good"], "--field good: expected ROLE=NAME"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--field", "x=y"], "expected ROLE=NAME with a role"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--output=no/such/x.json"], "is not a directory"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--chart=x.jpg"], "--chart=x.jpg: expected one of .png"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--scoring=prefixed"], "invalid choice: 'prefixed'"),
        ("minimal_pair", ["--data={minimal_pairs}"], "invalid choice: 'minimal_pair'"),
        ("multiple_choice", ["--data={lambada}", "--scoring=pll"], "--scoring=pll does not generate"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--scoring=prefix"], "an encoder cannot"),
        ("minimal_pairs", ["--data={minimal_pairs}", "--max_vectors=3"], "--max_vectors is for similarity"),
        ("minimal_pairs", ["--data={perplexity}"], "is none of .tsv, .csv, .jsonl"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_an_error_of_one_line(suite, words, message, runs, data):
    words = [word.format(**data) for word in words]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        run(runs["encoder"], suite, *words)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_a_suite_of_language_models_needs_a_run():
    with pytest.raises(ConfigError, match="needs a language model; give --run"):
        evaluate.main(["--vectors=x.vec", "--suite=minimal_pairs", "--data=x"])


def test_text_without_a_token_is_an_error_that_names_its_line(runs, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"sentence_good": "the stone", "sentence_bad": "\u00ad"}) + "\n")
    with pytest.raises(ValueError, match="x.jsonl at line 1 has"):
        run(runs["encoder"], "minimal_pairs", f"--data={file}")


def without_head(loaded):
    """A run whose model has an LM head that its parameters lack, as after finetuning for labels."""
    config = dataclasses.replace(loaded.config, lm_head_transform=True, lm_head_bias=True)
    params = {name: leaves for name, leaves in loaded.params.items() if name != "heads"}
    return dataclasses.replace(loaded, model=models.build(config), params=params)


def discriminator(loaded):
    return dataclasses.replace(loaded, params={**loaded.params, "heads": {"discriminator": {}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_head, "has no LM head, as finetuning for labels drops it"),
     (discriminator, "is a discriminator, which has no probabilities of tokens")],
)  # fmt: skip
def test_a_run_without_an_lm_head_is_an_error_of_one_line(change, message, runs, data, monkeypatch):
    load = scoring.load_run
    monkeypatch.setattr(scoring, "load_run", lambda run: change(load(run)))
    with pytest.raises(ConfigError, match=message):
        run(runs["encoder"], "minimal_pairs", f"--data={data['minimal_pairs']}")


@pytest.mark.parametrize(
    ("architecture", "config", "expected"),
    [
        ("encoder_decoder", {"task": {"name": "seq2seq"}}, "prefix_lm"),
        ("encoder_decoder", {"task": {"name": "text_to_text", "attention": "causal"}}, "prefix_lm"),
        ("decoder", {"task": {"name": "seq2seq", "attention": "prefix"}}, "prefix_lm"),
        ("decoder", {"task": {"name": "seq2seq", "attention": "causal"}}, None),
        ("encoder", {"task": {"name": "classification"}}, None),
        ("decoder", {"objective": {"name": "fill_in_the_middle", "fim_rate": 0.9}}, "fill_in_the_middle"),
    ],
)  # fmt: skip
def test_a_run_is_scored_in_the_form_of_its_last_training(architecture, config, expected):
    found = scoring.last_objective(config, architecture)
    assert (found and found.name) == expected
