"""tools.fill_mask: each kind of run fills in its way, and what it cannot fill is one line before any work."""

import json
import sys

import numpy as np
import published
import pytest
import tiny_configs

from generation import FillConfig
from huggingface import convert
from tools import fill_mask
from tools.filler import Filler
from training.config import ConfigError

# name of a run: (architecture, objective)
RUNS = {
    "encoder": ("encoder", {"name": "masked_lm"}),
    "mntp": ("decoder", {"name": "mntp"}),
    "hybrid": ("decoder", {"name": "hybrid", "causal_share": 0.9}),
    "middle": ("decoder", {"name": "fill_in_the_middle"}),
    "suffix_first": ("decoder", {"name": "fill_in_the_middle", "spm_rate": 1.0}),
    "spans": ("encoder_decoder", {"name": "span_corruption"}),
    "infilling": ("encoder_decoder", {"name": "text_infilling"}),
    "tokens": ("encoder_decoder", {"name": "denoising", "inputs": "mask", "targets": "spans"}),
    "ul2": ("decoder", {"name": "ul2"}),
    "causal": ("decoder", {"name": "causal_lm"}),
    "whole_prefix": ("decoder", {"name": "prefix_lm"}),
    "dropped": ("encoder_decoder", {"name": "drop_spans"}),
    "shuffled": ("encoder", {"name": "deshuffling"}),
    "pairs": ("encoder", {"name": "sentence_order", "mlm_loss_weight": 0.0}),
    "no_middle": ("decoder", {"name": "fill_in_the_middle", "fim_rate": 0.0}),
    "detection": ("encoder", {"name": "replaced_token_detection"}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with a run of random parameters for each architecture, and links to it with each objective."""
    folder = tmp_path_factory.mktemp("fill")
    for name, (architecture, objective) in RUNS.items():
        if not (folder / architecture).exists():
            tiny_configs.untrained(folder / architecture, architecture)
        (folder / name).mkdir(exist_ok=True)
        for file in (folder / architecture).iterdir():
            if not (folder / name / file.name).exists():
                (folder / name / file.name).symlink_to(file)
        record = json.loads((folder / architecture / "config.json").read_text())
        record["config"]["objective"] = objective
        (folder / name / "config.json").unlink()
        (folder / name / "config.json").write_text(json.dumps(record))
    return folder


def filled(runs, name, *texts, tokens=0, **options):
    """(the Filler, rows, records)."""
    filler = Filler(str(runs / name))
    parsed = [filler.parse(f"text {n}", text) for n, text in enumerate(texts, 1)]
    rows = [filler.row(text) for text in parsed]
    options = FillConfig(**options)
    return filler, rows, filler.fill(parsed, rows, options, range(len(texts)), tokens)


def names_of(filler, row):
    return [filler.loaded.tokenizer.token(token) for token in row]


@pytest.mark.parametrize("name", ["encoder", "mntp", "hybrid"])
def test_each_mask_becomes_a_token(runs, name):
    filler, rows, records = filled(
        runs, name, "the [MASK] of [CLS] the", "river [MASK][MASK] light", num_return_sequences=2
    )
    end = {"encoder": "[SEP]"}.get(name, "[EOS]")
    words = ["the", "[MASK]", "of", *["[UNK]"] * 3, "the", end]  # '[CLS]' in a text is text
    assert names_of(filler, rows[0]) == ["[CLS]"] * (name == "encoder") + words
    for record, masks in zip(records, (1, 2), strict=True):
        best = record["fills"]
        assert len(best) == 2 and best[0]["log_prob"] >= best[1]["log_prob"]
        assert len(record["masks"]) == masks == len(best[0]["filled"])
        assert best[0]["probability"] == pytest.approx(np.exp(best[0]["log_prob"]))
        assert "[MASK]" not in best[0]["text"] and all(word in tiny_configs.WORDS
                                                       for word in best[0]["filled"])  # fmt: skip
    likeliest = records[0]["masks"][0]
    assert [each["token"] for each in likeliest] == [
        each["filled"][0] for each in records[0]["fills"]
    ]
    assert records[0]["fills"][0]["text"].startswith(f"the {likeliest[0]['token']} of")


def test_a_decoder_trained_with_fill_in_the_middle_generates_the_middle(runs):
    for name, expected in {
        "middle": ["[PRE]", "the", "river", "[SUF]", "light", "[MID]"],
        "suffix_first": ["[PRE]", "[SUF]", "light", "[MID]", "the", "river"],
    }.items():
        filler, (row,), (record,) = filled(runs, name, "the river [MASK] light", tokens=3)
        assert names_of(filler, row) == expected
        (best,) = record["fills"]
        assert best["finish_reason"] in ("stop", "length")
        assert best["text"] == " ".join(filter(None, ["the river", best["filled"][0], "light"]))


def test_spans_take_the_place_of_their_sentinels(runs):
    text = "the <extra_id_0> river <extra_id_1>"
    filler, rows, records = filled(runs, "spans", text, "the [MASK] river [MASK]", tokens=8)
    assert names_of(filler, rows[0]) == ["the", "<extra_id_0>", "river", "<extra_id_1>", "[EOS]"]
    assert rows[0].tolist() == rows[1].tolist()
    assert records[0]["fills"] == records[1]["fills"]
    for record in records:
        (best,) = record["fills"]
        first, second = best["filled"]
        assert best["text"] == " ".join(filter(None, ["the", first, "river", second]))


@pytest.mark.parametrize("more", [[], ["--batch_size=1", "--temperature=1"]])
def test_more_texts_than_a_batch_has_rows_are_generated(runs, capsys, more):
    flags = [
        f"--run={runs / 'spans'}",
        "--text=the [MASK] river",
        "--n_best=40",
        "--max_new_tokens=2",
    ]
    fill_mask.main([*flags, *more])
    assert len(json.loads(capsys.readouterr().out)["fills"]) == 40


def test_the_spans_of_a_generated_text_are_those_between_its_sentinels(runs, monkeypatch):
    """Tokens before the first sentinel belong to it, a span that is not generated is empty."""
    from generation import Generated
    from tools import infilling

    filler = Filler(str(runs / "ul2"))
    special = filler.loaded.vocabulary
    ids = filler.loaded.tokenizer.vocabulary()
    tokens = [ids["light"], special.sentinels[0], ids["stone"], special.sentinels[2], special.eos]
    prompts = []

    def generated(model, params, given, config, *, eos_ids, mesh):
        prompts.extend(given)
        assert eos_ids == (special.eos, special.sentinels[3])
        return [[Generated(np.array(tokens, np.int32), np.zeros(5, np.float32), "stop", -1.0)]]

    monkeypatch.setattr(infilling, "generate", generated)
    _, rows, (record,) = filled(runs, "ul2", "the [MASK] river [MASK] of [MASK]")
    assert record["fills"][0]["filled"] == ["light stone", "", ""]
    assert record["fills"][0]["text"] == "the light stone river of"
    assert prompts[0].prefix and names_of(filler, rows[0])[0] == "[R]"


def test_a_model_that_generates_the_whole_text_gives_it(runs):
    filler, (row,), (record,) = filled(runs, "infilling", "the [MASK] river", tokens=4)
    assert names_of(filler, row) == ["the", "[MASK]", "river", "[EOS]"]
    assert record["fills"][0].keys() == {"text", "probability", "log_prob", "finish_reason"}
    _, _, (record,) = filled(runs, "tokens", "the [MASK] river [MASK]", tokens=4)
    assert len(record["fills"][0]["filled"]) == 2


def test_the_command_writes_json_lines_of_texts_files_and_standard_input(
    runs, tmp_path, monkeypatch, capsysbinary
):
    lines = "the [MASK] river\n[MASK] light and [MASK] stone\n"
    (tmp_path / "texts.txt").write_text(lines.replace("\n", "\n\n"))
    rows = [json.dumps({"sentence": line}) for line in lines.splitlines()]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    run = f"--run={runs}/encoder"

    def records(*arguments):
        fill_mask.main([run, "--n_best=2", *arguments])
        return [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]

    expected = records(*(f"--text={line}" for line in lines.splitlines()))
    assert [row["id"] for row in expected] == [0, 1] and expected[0]["text"] == "the [MASK] river"
    assert records(f"--file={tmp_path}/texts.txt") == expected
    assert records(f"--file={tmp_path}/texts.jsonl", "--column=sentence") == expected
    with open(tmp_path / "texts.txt") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert records() == expected
    assert records(f"--file={tmp_path}/texts.txt", f"--output={tmp_path}/out.jsonl") == []
    found = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in found] == expected
    # The batch size changes no sample.
    sampled = [f"--file={tmp_path}/texts.txt", "--temperature=1", "--seed=3"]
    one, other = records(*sampled, "--batch_size=1"), records(*sampled)
    assert [[f["text"] for f in row["fills"]] for row in one] == [
        [f["text"] for f in row["fills"]] for row in other
    ]
    (appended,) = records("--text=the river", "--append_masks=3", "--order=left_to_right")
    assert len(appended["masks"]) == 3 and appended["fills"][0]["text"].startswith("the river ")


MANY = "[MASK] " * 1000
REFUSED = {
    "no mask": ("encoder", ["--text=the river"], "text 1 has no mask to fill .'the river'.; write"),
    "empty": ("encoder", ["--text="], "text 1 has no mask to fill .''.; write"),
    "a sentinel": (
        "encoder", ["--text=a <extra_id_0> b"], r"text 1 has <extra_id_0>, but .*encoder at step 0 "
        r"\(masked_lm\) fills \[MASK\]; write \[MASK\] in its place"),
    "a sentinel beside a mask": (
        "infilling", ["--text=[MASK] <extra_id_0>"], r"text_infilling\) fills \[MASK\]; write"),
    "a mask of another model": ("infilling", ["--text=a <mask> b"], r"has <mask>, but .*fills \[MASK\]"),
    "a mask for spans": ("spans", ["--text=a <mask> b"], "has <mask>, but .* fills <extra_id_0>; write"),
    "no sentinel": ("spans", ["--text=the river"], "write <extra_id_0> in the text"),
    "second text": ("encoder", ["--text=a [MASK]", "--text=b"], "text 2 has no mask"),
    "too long": ("encoder", [f"--text=[MASK] {'the ' * 70}"], "73 tokens, .* at most 64: shorten"),
    "very long": ("encoder", [f"--text=[MASK] {'the ' * 100_000}"], "100,003 tokens, .* 64: shorten"),
    "1000 masks": ("encoder", [f"--text={MANY}"], "1,002 tokens, but the model reads at most 64"),
    "1000 spans": ("spans", [f"--text={MANY}"], "1,000 masks, but the tokenizer has 100 sentinels"),
    "1000 in the middle": ("middle", [f"--text={MANY}"], "1000 masks, .* fills one gap"),
    "appended too many": ("encoder", ["--text=a", "--append_masks=1000"], "at most 64: shorten"),
    "a mask at the start": ("mntp", ["--text=[MASK] river"], "text 1 starts with a mask, .* before it"),
    "sentinels in disorder": (
        "spans", ["--text=a <extra_id_1> b <extra_id_0>"], "write <extra_id_0>, <extra_id_1>, ... in"),
    "a repeated sentinel": ("spans", ["--text=<extra_id_0> b <extra_id_0>"], "in this order"),
    "surrogate": ("encoder", ["--text=the \udcff [MASK]"], "text 1 has .* not valid text: write it as"),
    "unknown file": ("encoder", ["--file=missing.txt"], "missing.txt"),
    "not UTF-8": ("encoder", ["--file={}/latin.txt"], "latin.txt.*UTF-8"),
    "empty file": ("encoder", ["--file={}/empty.txt"], "empty.txt"),
    "a line without a mask": ("encoder", ["--file={}/lines.txt"], "lines.txt at line 2 has no mask"),
    "a row without text": (
        "encoder", ["--file={}/gap.jsonl"], "gap.jsonl at line 2: 'text' has no text; give it one, or"),
    "no column": ("encoder", ["--file={}/rows.jsonl"], "rows.jsonl.* 'text'"),
    "a causal decoder": (
        "causal", ["--text=a [MASK]"], "was pretrained as causal_lm, which fills no masks; name an"),
    "a prefix LM": ("whole_prefix", ["--text=a [MASK]"], "as prefix_lm, which fills no masks"),
    "dropped spans": ("dropped", ["--text=a [MASK]"], "as drop_spans, which fills no masks"),
    "shuffled tokens": ("shuffled", ["--text=a [MASK]"], "as deshuffling, which fills no masks"),
    "pairs alone": ("pairs", ["--text=a [MASK]"], "as sentence_order, which fills no masks"),
    "no middle": ("no_middle", ["--text=a [MASK]"], "as fill_in_the_middle, which fills no masks"),
    "a discriminator": ("detection", ["--text=a [MASK]"], "as replaced_token_detection, which fills no"),
    "masks after a text": (
        "spans", ["--text=a", "--append_masks=3"], "tools.generate continues a prompt"),
    "another option": ("encoder", ["--text=a", "--config.task.x=1"], "expected --config.mesh"),
    "no folder": ("encoder", ["--text=a [MASK]", "--output=none/out.jsonl"], "not a directory"),
    "an existing file": (
        "encoder", ["--text=a [MASK]", "--output={}/lines.txt"], "exists; remove it, or name another"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_filled_is_one_line_with_the_remedy(runs, tmp_path, case):
    name, arguments, message = REFUSED[case]
    (tmp_path / "latin.txt").write_bytes("caf\xe9 [MASK]\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "lines.txt").write_text("a [MASK]\nno\n")
    (tmp_path / "rows.jsonl").write_text('{"sentence": "a [MASK]"}\n')
    (tmp_path / "gap.jsonl").write_text('{"text": "a [MASK]"}\n{"text": ""}\n')
    arguments = [each.replace("{}", str(tmp_path)) for each in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        fill_mask.main([f"--run={runs / name}", *arguments])
    assert "\n" not in str(error.value) and len(str(error.value)) <= 400


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--text=a", "--file=b"], "exclude each other"),
        (["--text=a", "--n_best=0"], "--n_best=0 is out of range"),
        (["--text=a", "--temperature=-1"], "--temperature=-1.0 is out of range"),
        (["--text=a", "--order=random"], "invalid choice"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        fill_mask.main(["--run=none", *arguments])


def test_published_models_fill_or_name_what_they_lack(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "lm").mkdir()
    found = filled(tmp_path / "lm", published.bert(tmp_path / "lm").name, "the [MASK] fox")[2]
    assert found[0]["fills"][0]["text"].endswith(" fox") and len(found[0]["masks"]) == 1
    (tmp_path / "classes").mkdir()
    path = published.bert(tmp_path / "classes", classes=("a", "b"))
    with pytest.raises(ConfigError, match="is finetuned for .* and fills no masks"):
        Filler(str(path))
    (tmp_path / "gpt2").mkdir()
    gpt2 = published.gpt2(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="pretrained as GPT2LMHeadModel, which fills no masks"):
        filled(tmp_path / "gpt2", gpt2.name, "the [MASK] fox")
    # With the tokens of StarCoder; the model has rows for them.
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    vocabulary |= {name: len(vocabulary) + n for n, name in enumerate(names)}
    (gpt2 / "vocab.json").write_text(json.dumps(vocabulary))
    filler, (row,), (record,) = filled(tmp_path / "gpt2", gpt2.name, "the [MASK] fox", tokens=2)
    found = [token for token in names_of(filler, row) if token in names]
    assert found == [*names] and names_of(filler, row)[0] == names[0]
    assert record["fills"][0]["text"].startswith("the") and record["text"] == "the [MASK] fox"
    headless = tmp_path / "headless"
    convert.to_hf(str(tmp_path / "lm" / "run"), str(headless), architecture="BertModel")
    with pytest.raises(ConfigError, match="BertModel. has no language-modeling head"):
        filled(tmp_path, "headless", "the [MASK] fox")


def test_a_finetuned_run_names_the_run_it_was_made_from(runs, tmp_path):
    record = json.loads((runs / "encoder" / "config.json").read_text())
    record["config"] = {"task": {"name": "regression"}}
    for file in (runs / "encoder").iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match="is finetuned for regression and fills no masks; name the"
    ):
        Filler(str(tmp_path))
