"""tools.generate: prompts of every source, order, scores, streaming, stop strings, resume, errors."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny_configs
from tiny_configs import WORDS

import models
from data import tokenizer as tokenizers
from generation import GenerationConfig, Prompt, generate
from models.layers import lm_logits
from tools import generate as program
from tools.generator import Generator
from training import checkpoint, run_directory
from training.param_rules import unflatten_params

CHAT = """\
{% for message in messages %}{{ '[CLS]' + message['role'] + ' ' + message['content'] + '[EOS]' }}{% endfor %}\
{% if add_generation_prompt %}{{ '[CLS]assistant' }}{% endif %}"""
PROMPTS = [
    "the river",
    "a stone of light",
    "winter",
    "the a of to in and is that it",
    "music garden",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    for architecture in ("encoder", "decoder", "encoder_decoder"):
        tiny_configs.untrained(folder / architecture, architecture)
    chat = folder / "chat"
    shutil.copytree(folder / "decoder", chat)
    words = tokenizers.of_words(
        (*WORDS, "dry", "wet", "user", "assistant", "system")[: len(WORDS) + 2]
    )
    files = {"chat_template.jinja": CHAT.encode()}
    tokenizers.Tokenizer(words.to_library(), {}, files).save(chat / "tokenizer.json")
    return folder


def execute(capsys, *words):
    """(standard output, standard error) of the program."""
    program.main([str(word) for word in words])
    captured = capsys.readouterr()
    return captured.out, captured.err


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def run(folder, name="decoder"):
    return f"--run={folder / name}"


LENGTH = "--max_new_tokens=7"


def expected_of(folder, prompts, name="decoder"):
    """What the model generates greedily, one token after another by the whole model."""
    directory = folder / name
    shapes = checkpoint.params_metadata(directory, 0)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=device) for k, v in shapes.items()}
    params = checkpoint.read_params(directory / "checkpoints", 0, unflatten_params(target))
    model = models.build(models.ModelConfig(**run_directory.read_config(directory)["model"]))
    tokenizer, found = tokenizers.load(directory), []

    @jax.jit
    def logits_at(tokens, segment_ids, place):
        hidden = model.apply({"params": params}, models.make_inputs(tokens, segment_ids, "causal"))
        features = model.apply({"params": params}, hidden[:, place][:, None], method="lm_features")
        table, bias = model.apply({"params": params}, method="output_embedding")
        return lm_logits(features, table, bias)[0, 0, : tokenizer.size]

    for prompt in prompts:
        ids = tokenizer.encode(prompt).tolist()
        start, log_probs = len(ids), []
        while len(ids) < start + 7 and not (len(ids) > start and ids[-1] == 4):
            tokens, segment_ids = np.zeros((2, 1, 24), np.int32)
            tokens[0, : len(ids)], segment_ids[0, : len(ids)] = ids, 1
            logits = np.asarray(logits_at(tokens, segment_ids, len(ids) - 1), np.float64)
            scores = logits - np.log(np.exp(logits).sum())
            ids.append(int(scores.argmax()))
            log_probs.append(scores[ids[-1]])
        whole, first = tokenizer.decode(ids, True), tokenizer.decode(ids[:start], True)
        found.append((whole[len(first) :], ids[start:], log_probs))
    return found


@pytest.fixture(scope="module")
def expected(folder):
    return expected_of(folder, PROMPTS)


def test_many_prompts_are_json_lines_in_their_order(folder, capsys, expected):
    flags = [f"--prompt={text}" for text in PROMPTS]
    out, _ = execute(capsys, run(folder), *flags, LENGTH, "--batch_size=2")
    rows = records(out)
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["id"] for row in rows] == [row["seed"] for row in rows] == [0, 1, 2, 3, 4]
    for row, (text, tokens, log_probs) in zip(rows, expected, strict=True):
        assert (row["text"], row["tokens"]) == (text, tokens)
        np.testing.assert_allclose(row["log_probs"], log_probs, atol=1e-4)
        assert row["score"] == pytest.approx(sum(log_probs), abs=1e-3)
        assert row["finish_reason"] == ("stop" if tokens[-1] == 4 else "length")


def test_files_and_standard_input_give_the_same_rows_without_blank_lines(
    folder, tmp_path, capsys, caplog, monkeypatch, expected
):
    caplog.set_level("INFO", "triptych")
    (tmp_path / "a.txt").write_text("\n" + "\n\u200b \n".join(PROMPTS) + "\n\n", encoding="utf-8")
    rows = "".join(json.dumps({"x": 1, "prompt": text}) + "\n" for text in PROMPTS)
    (tmp_path / "b.jsonl").write_text(rows)
    (tmp_path / "c.tsv").write_text("id\tquestion\n" + "".join(f"7\t{t}\n" for t in PROMPTS))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(PROMPTS).encode())))
    texts = [text for text, _, _ in expected]
    for flags in (
        [f"--file={tmp_path}/a.txt"],
        [f"--file={tmp_path}/b.jsonl"],
        [f"--file={tmp_path}/c.tsv", "--column=question"],
        [],
    ):
        out, _ = execute(capsys, run(folder), LENGTH, *flags)
        assert [row["text"] for row in records(out)] == texts
    assert (
        caplog.text.count("a.txt: 6 blank lines are skipped") == caplog.text.count("skipped") == 1
    )


def test_one_prompt_is_shown_as_its_tokens_come(folder, capsys, monkeypatch, expected):
    parts = []
    monkeypatch.setattr(program, "show", lambda number, text: parts.append(text))
    out, _ = execute(capsys, run(folder), f"--prompt={PROMPTS[0]}", LENGTH)
    assert out == "\n" and "".join(parts) == expected[0][0] and len([p for p in parts if p]) > 1


def test_a_stop_string_is_cut_off_with_its_tokens(folder, capsys, expected):
    text, tokens, log_probs = max(expected, key=lambda each: len(each[1]))
    prompt = PROMPTS[[each[0] for each in expected].index(text)]
    words = text.split()
    stop = " ".join(words[2:4])[:-1]  # across the border of two tokens
    flags = [f"--prompt={prompt}", f"--stop={stop}", "--stop=never", LENGTH]
    out, _ = execute(capsys, run(folder), *flags, "--prompt=winter")
    row = records(out)[0]
    place = text.index(stop)
    assert (row["text"], row["finish_reason"]) == (text[:place], "stop")
    assert tokens[: len(row["tokens"])] == row["tokens"] and len(row["tokens"]) < len(tokens)
    assert row["score"] == pytest.approx(sum(log_probs[: len(row["tokens"])]), abs=1e-3)


def test_samples_have_seeds_of_their_own_and_come_best_first(folder, tmp_path, capsys):
    flags = [run(folder), LENGTH, "--temperature=1.5", "--num_return_sequences=3", "--seed=5"]
    out, _ = execute(capsys, *flags, *(f"--prompt={text}" for text in PROMPTS[:3]))
    rows = records(out)
    assert [(row["id"], row["sequence"]) for row in rows] == [
        (i, j) for i in range(3) for j in range(3)
    ]
    assert [row["seed"] for row in rows[::3]] == [5, 6, 7]
    for start in (0, 3, 6):
        scores = [row["score"] for row in rows[start : start + 3]]
        assert scores == sorted(scores, reverse=True)
    # The second prompt alone, with its seed.
    path = tmp_path / "alone.jsonl"
    flags[-1] = "--seed=6"
    execute(capsys, *flags, f"--prompt={PROMPTS[1]}", f"--output={path}")
    alone = records(path.read_text())
    assert [row["tokens"] for row in alone] == [row["tokens"] for row in rows[3:6]]


def test_beams_of_an_encoder_decoder_are_those_of_generate(folder, capsys):
    flags = [run(folder, "encoder_decoder"), "--num_beams=3", "--num_return_sequences=2", LENGTH]
    out, _ = execute(capsys, *flags, *(f"--prompt={text}" for text in PROMPTS[:2]))
    generator = Generator(str(folder / "encoder_decoder"))
    tokenizer = generator.tokenizer
    prompts = [
        Prompt(
            np.array([*tokenizer.encode(text), 4], np.int32), decoder_tokens=np.array([6], np.int32)
        )
        for text in PROMPTS[:2]
    ]
    config = GenerationConfig(max_new_tokens=7, num_beams=3, num_return_sequences=2)
    loaded = generator.loaded
    found = generate(loaded.model, loaded.params, prompts, config, eos_ids=(4,), mesh=loaded.mesh)
    every = [each for rows in found for each in rows]
    for row, each in zip(records(out), every, strict=True):
        assert row["tokens"] == each.tokens.tolist()
        assert row["score"] == pytest.approx(each.score, abs=1e-4)


def test_a_file_is_continued_after_whole_prompts_and_is_not_overwritten(folder, tmp_path, capsys):
    path = tmp_path / "out.jsonl"
    flags = [run(folder), LENGTH, "--temperature=1", "--num_return_sequences=2", f"--output={path}"]
    flags += [f"--prompt={text}" for text in PROMPTS]
    execute(capsys, *flags)
    whole = path.read_text()
    with pytest.raises(ValueError, match=r"exists; add --resume to continue it"):
        program.main(flags)
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])  # a prompt and a half, and a part of a line
    execute(capsys, *flags, "--resume")
    assert path.read_text() == whole
    execute(capsys, *flags, "--resume")
    assert path.read_text() == whole
    for changed in ("--temperature=0.5", "--stop=river", f"--run={folder / 'chat'}"):
        with pytest.raises(ValueError, match=r"line 1 is of another run or of other options"):
            program.main([*flags, changed, "--resume"])
    flags[-1] = "--prompt=other"
    with pytest.raises(ValueError, match=r"out.jsonl at line 9 is of another prompt"):
        program.main([*flags, "--resume"])
    flags[-1] = f"--prompt={PROMPTS[-1]}"
    for content, message in (
        (lines[0], r"line 1 is of another run or of other options"),  # fewer rows than a prompt has
        (lines[0].rstrip(), r"line 1 is of another run or of other options"),
        (lines[0] + lines[2], r"line 2 is of another prompt"),
        (lines[0] + "notes", r"line 2 is no row of this program; name another file"),
        ("notes", r"out.jsonl at line 1 is no row of this program; name another file"),
        ("[1, 2]\n", r"out.jsonl at line 1 is no row of this program; name another file"),
    ):
        path.write_text(content)
        more = ["--num_return_sequences=4"] if "other options" in message else []
        with pytest.raises(ValueError, match=message):
            program.main([*flags, *more, "--resume"])
        assert path.read_text() == content


def test_messages_and_chat_prompts_use_the_template(folder, tmp_path, capsys):
    rows = [
        {"messages": [{"role": "user", "content": "the [EOS] river"}]},
        {"prompt": "the river"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, _ = execute(capsys, run(folder, "chat"), f"--file={tmp_path}/a.jsonl", LENGTH, "--chat")
    dialogue, prompt = records(out)
    assert dialogue["messages"] == rows[0]["messages"]
    assert prompt["messages"] == [{"role": "user", "content": "the river"}]
    generator = Generator(str(folder / "chat"))
    tokens = generator.chat_request(rows[0]["messages"]).prompt.tokens.tolist()
    assert tokens.count(4) == 1 and tokens.count(2) == 2  # [EOS] and [CLS] of the template alone
    with_system = ["--chat", "--system=stone", f"--output={tmp_path}/o.jsonl", "--prompt=the"]
    execute(capsys, run(folder, "chat"), LENGTH, *with_system)
    (row,) = records((tmp_path / "o.jsonl").read_text())
    assert row["messages"][0] == {"role": "system", "content": "stone"}


BAD = {
    "empty prompt": (["--prompt="], r"prompt 1: the prompt '' is empty.*give it some text"),
    "no file": (["--file={tmp}/none.txt"], r"none.txt.*no file|No such|does not exist|matches"),
    "encoding": (["--file={tmp}/latin.txt"], r"latin.txt is not UTF-8 at line 1 .byte 3 of it.*iconv"),
    "no column": (["--file={tmp}/other.jsonl"], r"other.jsonl has no column 'prompt'.*set --column to"),
    "no value": (["--file={tmp}/gap.jsonl"], r"gap.jsonl at line 2: 'prompt' has no text"),
    "messages": (["--file={tmp}/bad.jsonl"], r"bad.jsonl at line 1: message 1 is .*expected a role"),
    "empty file": (["--file={tmp}/empty.txt"], r"empty.txt has no text; write one per line"),
    "JSON": (["--file={tmp}/json.txt"], r"json.txt has JSON, but .*rename it to .jsonl"),
    "a table": (["--file={tmp}/table.dat"], r"table.dat has a table, but .*rename it to .tsv or .csv"),
    "an array": (["--file={tmp}/array.json"], r"array.json is none of .*one object per line"),
    "stop": (["--prompt=a", "--stop="], r"--stop is empty; name a text"),
    "both": (["--prompt=a", "--file=b"], r"--prompt and --file exclude each other"),
    "terminal": (["--interactive"], r"--interactive needs a terminal"),
    "interactive": (["--interactive", "--prompt=a"], r"--interactive reads and writes at the terminal"),
    "resume": (["--prompt=a", "--resume"], r"--resume continues a file; add --output"),
    "system": (["--prompt=a", "--system=b"], r"--system belongs to a dialogue"),
    "folder": (["--prompt=a", "--output={tmp}/no/out.jsonl"], r"/no' is not a directory; create it"),
    "search": (["--prompt=a", "--num_beams=2", "--temperature=1"], r"num_beams=2 with temperature=1"),
    "type": (["--prompt=a", "--top_k=x"], r"--top_k='x' has the wrong type"),
    "range": (["--prompt=a", "--max_new_tokens=0"], r"--max_new_tokens=0 is out of range"),
    "flag": (["--prompt=a", "--max_new_token=4"], r"did you mean --max_new_tokens\?"),
    "chat": (["--prompt=a", "--chat"], r"decoder at step 0 has no chat template"),
    "config": (["--prompt=a", "--config.task.metric=x"], r"expected --config.mesh"),
    "column": (["--prompt=a", "--column=b"], r"--column is of files"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_one_line(folder, tmp_path, name):
    files = {
        "latin.txt": b"caf\xe9 x",
        "other.jsonl": b'{"promt": "a"}\n',
        "gap.jsonl": b'{"prompt": "a"}\n{"prompt": null}\n',
        "bad.jsonl": b'{"messages": [{"role": "me", "content": "a"}]}\n',
        "empty.txt": b"\n\n",
        "json.txt": b'{"prompt": "a"}\n{"prompt": "b"}\n',
        "table.dat": b"id\tprompt\n1\ta\n",
        "array.json": b'["a", "b"]\n',
    }
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    words, message = BAD[name]
    with pytest.raises((ValueError, OSError), match=message) as found:
        program.main([run(folder), *(word.format(tmp=tmp_path) for word in words)])
    assert "\n" not in str(found.value) and len(str(found.value)) <= 400


def test_an_encoder_fills_masks_from_left_to_right(folder, capsys):
    out, _ = execute(capsys, run(folder, "encoder"), LENGTH, "--prompt=the river", "--prompt=a")
    generator = Generator(str(folder / "encoder"))
    ids, loaded = generator.loaded.vocabulary, generator.loaded
    for row, text in zip(records(out), ("the river", "a"), strict=True):
        words = loaded.tokenizer.encode(text).tolist()
        tokens = np.array([ids.cls, *words, *[ids.mask] * 7, ids.sep], np.int32)
        # the likeliest regular token of each mask
        for place in range(1 + len(words), len(tokens) - 1):
            inputs = models.make_inputs(
                tokens[None], np.ones((1, len(tokens)), np.int32), "bidirectional"
            )
            hidden = loaded.model.apply({"params": loaded.params}, inputs)[:, place][:, None]
            features = loaded.model.apply({"params": loaded.params}, hidden, method="lm_features")
            table, bias = loaded.model.apply({"params": loaded.params}, method="output_embedding")
            logits = np.asarray(lm_logits(features, table, bias))[0, 0, 113 : loaded.tokenizer.size]
            tokens[place] = 113 + logits.argmax()
        assert row["tokens"] == tokens[1 + len(words) : -1].tolist()
        assert row["finish_reason"] == "length" and len(row["log_probs"]) == 7
    with pytest.raises(ValueError, match="--top_k is an option of models that generate from left"):
        program.main([run(folder, "encoder"), "--prompt=a", "--top_k=3"])


def test_models_that_generate_no_text_are_refused_with_the_tool_that_fits(folder, tmp_path):
    for change, message in (
        ({"model": {"architecture": "embeddings"}}, r"is a run of word vectors"),
        ({"config": {"task": {"name": "tagging"}}}, r"has the head of tagging.*tools.predict"),
    ):
        other = tmp_path / message[:8].strip().replace(" ", "_")
        shutil.copytree(folder / "decoder", other)
        record = json.loads((other / "config.json").read_text())
        record |= {key: record[key] | value for key, value in change.items()}
        (other / "config.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            program.main([f"--run={other}", "--prompt=a"])


def test_a_prompt_beyond_learned_positions_is_one_line_and_outputs_fit(
    folder, tmp_path, capsys, caplog
):
    other = tmp_path / "learned"
    shutil.copytree(folder / "decoder", other)
    record = json.loads((other / "config.json").read_text())
    record["model"] |= {"positions": "learned", "max_length": 8}
    (other / "config.json").write_text(json.dumps(record))
    long = " ".join(["the"] * 9)
    generator = Generator(str(other))
    config = generator.config({"max_new_tokens": "7"})
    with pytest.raises(
        ValueError, match=r"prompt 2 has 9 tokens, but .* has 8 positions: shorten it"
    ):
        generator.check_lengths(generator.requests(["a", long]), config)
    with caplog.at_level("INFO", "triptych"):
        found = generator.check_lengths(generator.requests(["a", "the a of to in"]), config)
    assert [each.prompt.max_new_tokens for each in found] == [0, 4]
    assert "1 texts end before --max_new_tokens=7: the model has 8 positions" in caplog.text


@pytest.mark.slow
def test_ctrl_c_leaves_whole_rows_that_are_continued(folder, tmp_path):
    path, source = tmp_path / "out.jsonl", tmp_path / "prompts.txt"
    source.write_text("\n".join(f"the {WORDS[n % len(WORDS)]} river" for n in range(4000)))
    command = [
        *(
            sys.executable,
            "-m",
            "tools.generate",
            run(folder),
            f"--file={source}",
            f"--output={path}",
        ),
        *("--max_new_tokens=16", "--batch_size=8"),
    ]
    root = pathlib.Path(program.__file__).parents[1]
    with subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        deadline = time.monotonic() + 600
        while not path.exists() or path.stat().st_size < 20_000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=300)[1]
    assert process.returncode == 130, error
    rows = records(path.read_text())
    assert f"interrupted; {len(rows):,} of 4,000 prompts are written; --resume" in error
    assert [row["id"] for row in rows] == list(range(len(rows))) and 0 < len(rows) < 4000
