"""Tokenizer files: tokens, special tokens and templates are read as the files say, and written back.

References are the tokenizers library's own classes, SentencePiece, and segmentations made by hand.
"""

import io
import json
import pathlib

import numpy as np
import pytest
import sentencepiece as library
from published import (
    TEXTS,
    WORDS,
    bpe_pieces,
    byte_level,
    sentencepiece,
    unigram_pieces,
    wordpiece,
)  # fmt: skip
from tokenizers import AddedToken, Tokenizer

from data import tokenizer as tokenizer_module
from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate, template_for
from huggingface import older_tokenizers, tokenizer_classes
from huggingface.tokenizer_classes import CLASSES, GENERIC
from huggingface.tokenizers import read_tokenizer, write_tokenizer
from tasks.encoding import encode
from training.config import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tokens_of(tokenizer, text):
    return [tokenizer.token(i) for i in tokenizer.encode(text)]


def encode_pair(tokenizer, architecture, first, second):
    """(ids, token type ids) of a pair as finetuning encodes it."""
    template = template_for(architecture, tokenizer.special_ids(), tokenizer.template)
    found = encode(
        Examples({"text": [first]} | ({"text_pair": [second]} if second else {})),
        tokenizer,
        template,
        60,
        (),
        0,
    )
    count = found.lengths[0]
    return found.tokens[0, :count].tolist(), found.token_type_ids[0, :count].tolist()


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_tokenizes_as_the_library_does(tmp_path, lower):
    reference = wordpiece(tmp_path, do_lower_case=lower, unk_token="[UNK]")
    made = read_tokenizer(tmp_path)
    assert made.size == reference.get_vocab_size() and made.special_tokens == {}
    for text in [*TEXTS, *WORDS]:
        assert made.encode(text).tolist() == reference.encode(text, add_special_tokens=False).ids
    ids = made.special_ids()
    assert [ids[role] for role in ("pad", "unk", "cls", "sep", "mask", "eos")] == [
        0,
        4,
        5,
        6,
        7,
        -1,
    ]
    assert made.template == SpecialTokenTemplate((5,), (6,), (6,))
    assert made.encode("a [MASK] b", specials=True).tolist().count(7) == 1
    encoded = reference.encode(TEXTS[0], TEXTS[3])
    assert encode_pair(made, "encoder", TEXTS[0], TEXTS[3]) == (encoded.ids, encoded.type_ids)


def test_tokenizer_json_takes_precedence_and_neither_truncates_nor_pads(tmp_path):
    reference = wordpiece(tmp_path)
    inner = Tokenizer.from_str(reference.to_str())
    inner.enable_truncation(8)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    made = read_tokenizer(tmp_path)
    assert len(made.encode(TEXTS[0])) == 10 and len(made.encode("hello")) == 1
    assert (
        made.encode(TEXTS[0]).tolist() == tokenizer_module.load(tmp_path).encode(TEXTS[0]).tolist()
    )


def test_gpt2_adds_special_tokens_only_between_documents(tmp_path):
    reference = byte_level(tmp_path)
    made = read_tokenizer(tmp_path)
    for text in TEXTS:
        assert made.encode(text).tolist() == reference.encode(text).ids
        assert made.decode(made.encode(text)) == text
    ids = made.special_ids()
    assert ids["eos"] == 0 and ids["pad"] == -1
    assert made.template == SpecialTokenTemplate((), (), (0,))
    assert template_for("decoder", ids, made.template) == made.template
    assert template_for("decoder", ids, made.template, documents=True) == SpecialTokenTemplate(
        (), (0,), (0,)
    )


def test_roberta_separates_a_pair_with_two_tokens(tmp_path):
    byte_level(tmp_path, "roberta")
    made = read_tokenizer(tmp_path)
    assert made.template == SpecialTokenTemplate((0,), (2,), (2, 2))
    a, b = (made.encode(text).tolist() for text in ("the fox", "a dog"))
    tokens, types = encode_pair(made, "encoder", "the fox", "a dog")
    assert tokens == [0, *a, 2, 2, *b, 2] and sum(types) == len(b) + 1
    ids = made.special_ids()
    assert [ids[role] for role in ("cls", "pad", "sep", "unk", "mask")] == [0, 1, 2, 3, 4]


def test_a_unigram_model_maximizes_the_sum_of_scores(tmp_path):
    sentencepiece(tmp_path, unigram_pieces(), dummy=1, collapse=1)
    made = read_tokenizer(tmp_path)
    count = len(unigram_pieces())
    assert made.size == count + 100
    assert tokens_of(made, " the  lower quick ") == ["▁the", "▁low", "er", "▁quick"]
    assert made.decode(made.encode("the lower quick")) == "the lower quick"
    ids = made.special_ids()
    assert ids["sentinels"] == tuple(range(count + 99, count - 1, -1))
    assert (ids["pad"], ids["eos"], ids["unk"], ids["start"]) == (0, 1, 2, 0)
    assert made.template == SpecialTokenTemplate((), (1,), (1,))
    tokens, _ = encode_pair(made, "encoder_decoder", "the", "low")
    assert [made.token(i) for i in tokens] == ["▁the", "</s>", "▁low", "</s>"]
    # Unigram may use any token of its vocabulary, but text never becomes a control token.
    assert not {0, 1} & set(made.encode("a </s> and <pad>").tolist())
    assert {0, 1} < set(made.encode("a </s> and <pad>", specials=True).tolist())


def test_a_bpe_model_merges_by_score_and_falls_back_to_bytes(tmp_path):
    sentencepiece(tmp_path, bpe_pieces(), 2, "tokenizer.model", "llama", bytes=True, collapse=0)
    made = read_tokenizer(tmp_path)
    assert tokens_of(made, "the lower low") == ["▁the", "▁lower", "▁low"]
    assert tokens_of(made, " the") == ["▁", "▁the"]  # every text has a space added before it
    assert tokens_of(made, "ü") == ["▁", "<0xC3>", "<0xBC>"]
    assert made.decode(made.encode("the ü low")) == "the ü low"
    assert made.template == SpecialTokenTemplate((), (), (2,))  # as transformers, without a setting
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    made = read_tokenizer(tmp_path)
    assert made.template == SpecialTokenTemplate((1,), (), (1,))
    ids = made.special_ids()
    assert template_for("decoder", ids, made.template, documents=True) == SpecialTokenTemplate(
        (1,), (2,), (1,)
    )
    (tmp_path / "tokenizer_config.json").write_text('{"legacy": false}')  # adds none before a space
    assert tokens_of(read_tokenizer(tmp_path), " the") == ["▁the"]
    # A long text is split before a space, without any effect on its tokens.
    text = "the lower low " * 6000
    long = made.encode(text.strip())
    np.testing.assert_array_equal(long, np.tile(made.encode("the lower low"), 6000))


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
@pytest.mark.parametrize("recipe", ["t5", "llama"])
def test_a_sentencepiece_model_tokenizes_as_sentencepiece_does(tmp_path, algorithm, recipe):
    settings = {
        "t5": {"character_coverage": 0.98},
        "llama": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                  "byte_fallback": True, "split_digits": True},
    }[recipe]  # fmt: skip
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *WORDS] * 9), model_writer=model, vocab_size=330 if
        recipe == "llama" else 70, model_type=algorithm, minloglevel=2, num_threads=1,
        hard_vocab_limit=False, **settings,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    processor = library.SentencePieceProcessor(model_proto=model.getvalue())
    made = read_tokenizer(tmp_path)
    hard = ["ﬁne Ⅷ ½ ①", "e\u0301 combining", "tabs\tand\nlines", "x" * 50, "\u2581mark", "", " "]
    for text in [*TEXTS, *WORDS, " two  blanks ", *(hard if recipe == "t5" else hard[:4])]:
        assert made.encode(text).tolist() == processor.encode(text), text


def test_special_tokens_named_only_by_the_files_are_saved_with_the_run(tmp_path):
    inner = byte_level(tmp_path)
    inner.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "gpt2", "vocab_size": inner.get_vocab_size()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "<|endoftext|>",
             "bos_token": None, "mask_token": "<nowhere>"}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    made = read_tokenizer(tmp_path)
    end = made.vocabulary()["<|im_end|>"]
    assert made.special_ids()["eos"] == end and made.special_ids()["pad"] == 0
    assert made.special_ids()["mask"] == -1
    made.save(tmp_path / "run.json")
    (tmp_path / "run").mkdir()
    made.save(tmp_path / "run" / "tokenizer.json")
    again = tokenizer_module.load(tmp_path / "run")
    assert again.special_ids() == made.special_ids() and again.fingerprint == made.fingerprint
    (tmp_path / "run" / "special_tokens_map.json").unlink()
    assert tokenizer_module.load(tmp_path / "run").fingerprint != made.fingerprint
    # A padding token that also ends documents is not a padding token.
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<|im_end|>"}')
    assert read_tokenizer(tmp_path).special_ids()["pad"] == -1
    # BART: the decoder's start token is an id in config.json.
    (tmp_path / "config.json").write_text(json.dumps({"decoder_start_token_id": end}))
    assert read_tokenizer(tmp_path).special_ids()["start"] == end


def test_added_tokens_keep_their_ids(tmp_path):
    wordpiece(tmp_path)
    size = read_tokenizer(tmp_path).size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[X1]": size, "[X2]": size + 1}))
    made = read_tokenizer(tmp_path)
    assert made.vocabulary()["[X2]"] == size + 1 == made.size - 1
    assert size in made.encode("[X1]")  # an added token that no setting calls special
    (tmp_path / "tokenizer_config.json").write_text('{"additional_special_tokens": ["[X1]"]}')
    made = read_tokenizer(tmp_path)
    assert size not in made.encode("[X1]") and size in made.encode("[X1]", specials=True)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[X1]": size + 7}))
    with pytest.raises(ConfigError, match=f"has id {size}, expected {size + 7}"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: expected tokenizer.json, vocab.txt"),
        ({"tokenizer.json": "{}"}, "tokenizer.json cannot be read as a tokenizer"),
        ({"tokenizer.json": "[1"}, "tokenizer.json cannot be read as a tokenizer"),
        ({"tokenizer_config.json": "[]"}, "is not a JSON object"),
        ({"spiece.model": "not a model"}, "spiece.model cannot be read as a tokenizer"),
        ({"spiece.model": ""}, "its vocabulary is empty"),
        ({"vocab.json": "{}", "merges.txt": "a b c"}, "cannot be read as a tokenizer"),
        ({"vocab.txt": "a\nb\n", "config.json": '{"model_type": "bert", "vocab_size": 3}'},
         "it has no cls and no sep token"),
        ({"vocab.txt": "a\n", "config.json": '{"model_type": "qwen3"}'},
         "model_type='qwen3' with tokenizer_class='Qwen2Tokenizer' requires"),
        ({"spiece.model": "", "config.json": '{"model_type": "albert"}'}, "model_type='albert' with"),
        ({"vocab.txt": "a\n", "tokenizer_config.json": '{"tokenizer_class": "MyTokenizer"}'},
         "tokenizer_config.json has tokenizer_class='MyTokenizer', which is not read here"),
        ({"vocab.txt": "a\n", "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a.B", null]}}'},
         "tokenizer_config.json has auto_map=.* a tokenizer of its own code"),
        ({"vocab.txt": "a\n", "tokenizer_config.json": '{"tokenizer_class": "GPT2Tokenizer"}'},
         "tokenizer_class='GPT2Tokenizer' requires"),
    ],
)  # fmt: skip
def test_an_invalid_tokenizer_is_refused_in_one_line(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_corrupt_sentencepiece_model_is_refused_wherever_it_is_cut(tmp_path):
    data = sentencepiece(tmp_path, unigram_pieces(), dummy=1, collapse=1)
    rng = np.random.default_rng(0)
    for trial in range(120):
        corrupt = bytearray(data[: rng.integers(len(data))] if trial % 2 else data)
        for place in rng.integers(0, max(1, len(corrupt)), 3 * (trial % 3)):
            corrupt[place : place + 1] = bytes(rng.integers(0, 256, 1, np.uint8))
        (tmp_path / "spiece.model").write_bytes(corrupt)
        try:
            read_tokenizer(tmp_path)
        except ConfigError as error:
            assert "cannot be read as a tokenizer" in str(error)


def test_a_link_out_of_the_directory_is_refused(tmp_path):
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    wordpiece(outside)
    (home / "vocab.txt").symlink_to(outside / "vocab.txt")
    with pytest.raises(ConfigError, match="outside of its directory"):
        read_tokenizer(home)


@pytest.mark.parametrize("type_", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("architecture", "head", "single", "pair"),
    [
        ("encoder", "", "[CLS] a [SEP]", "[CLS] a [SEP] b [SEP]"),
        ("decoder", "", "a", "a b"),
        ("decoder", "classification", "a [EOS]", "a [SEP] b [EOS]"),
        ("encoder_decoder", "", "a [EOS]", "a [SEP] b [EOS]"),
    ],
)
def test_a_trained_tokenizer_is_written_with_the_template_of_its_model(
    tmp_path, type_, architecture, head, single, pair
):
    made = tokenizer_module.train(TEXTS * 20, type=type_, vocab_size=400)
    write_tokenizer(made, tmp_path, architecture=architecture, head=head, max_length=77,
                    token_types=architecture == "encoder")  # fmt: skip
    inner = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    first, second = made.encode("one word"), made.encode("two")
    known = {"a": first, "b": second}

    def ids(template):
        return np.concatenate(
            [known.get(t, [inner.token_to_id(t)]) for t in template.split()]
        ).tolist()

    assert inner.encode("one word").ids == ids(single)
    found = inner.encode("one word", "two")
    assert found.ids == ids(pair)
    if head or architecture != "decoder":
        tokens, types = encode_pair(made, architecture, "one word", "two")
        assert (tokens, types) == (found.ids, found.type_ids)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 77 and settings["mask_token"] == "[MASK]"
    assert settings["padding_side"] == ("left" if ids("a") == ids(single) else "right")
    assert ("token_type_ids" in settings["model_input_names"]) == (architecture == "encoder")
    again = read_tokenizer(tmp_path)
    assert again.special_ids() == made.special_ids() and again.special_tokens == {}
    same = template_for(architecture, made.special_ids(), again.template)
    assert same == template_for(architecture, made.special_ids(), made.template)
    for text in (*TEXTS, "[MASK] and [CLS]"):
        assert again.encode(text).tolist() == made.encode(text).tolist()
    # The mask token includes the space before it if tokens of words include theirs.
    masked = inner.encode("one [MASK] word", add_special_tokens=False).ids
    assert made.token(masked[masked.index(5) - 1]) not in ("Ġ", "▁")


def test_a_pretrained_tokenizer_is_written_as_it_was_read(tmp_path):
    (tmp_path / "in").mkdir()
    inner = byte_level(tmp_path / "in")
    inner.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    inner.save(str(tmp_path / "in" / "tokenizer.json"))
    (tmp_path / "in" / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    chat = {"chat_template.jinja": "{{ messages }}\n", "additional_chat_templates/tool.jinja": "x"}
    (tmp_path / "in" / "additional_chat_templates").mkdir()
    for name, content in chat.items():
        (tmp_path / "in" / name).write_text(content)
    read_tokenizer(tmp_path / "in").save(tmp_path / "tokenizer.json")
    made = tokenizer_module.load(tmp_path)  # as in a run, and in the runs that start from it
    made.save(tmp_path / "tokenizer.json")
    assert tokenizer_module.load(tmp_path).fingerprint == made.fingerprint
    other = tmp_path / "other" / "tokenizer.json"
    other.parent.mkdir()
    made.save(other)
    tokenizer_module.of_words(["a"]).save(other)  # another tokenizer in the place of this one
    assert contents(other.parent).keys() == {"tokenizer.json"}
    before = contents(tmp_path / "in")
    for head, name in (("", "a"), ("classification", "b")):
        write_tokenizer(made, tmp_path / name, architecture="decoder", head=head, max_length=9,
                        token_types=False)  # fmt: skip
        after = contents(tmp_path / name)
        if head:
            settings = json.loads(after.pop("tokenizer_config.json"))
            assert settings == {"pad_token": "<|im_end|>"}  # a batch of texts is padded
        assert after == before
        (tmp_path / name / "config.json").write_text('{"model_type": "gpt2"}')
        again = read_tokenizer(tmp_path / name)
        assert again.special_ids() == made.special_ids() and again.template == made.template


def contents(folder):
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "config.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_the_documentation_lists_the_classes_that_are_read():
    lines = []
    for name in (*CLASSES, GENERIC):
        same = [other for other, of in tokenizer_classes._SAME.items() if of == name]
        types = [t for t, of in tokenizer_classes._REGISTERED.items() if of in (name, *same)]
        types += ["llama"] if name == GENERIC else []
        found = [
            names
            for names, _, read in older_tokenizers._READERS
            if name in older_tokenizers._SUPPORTED[read]
        ]
        together = " and " if len(found) == 1 else " or "
        files = together.join(f"`{file}`" for names in found for file in names) or "refused"
        shown = ", ".join(f"`{t}`" for t in types) or "by name only"
        model = CLASSES[name].model if name in CLASSES else "any"
        label = "PreTrainedTokenizerFast" if name == GENERIC else name
        lines.append(f"| `{label}` | {shown} | {model} | {files} |")
    page = (ROOT / "docs/huggingface.md").read_text()
    table = page.split("<!-- tokenizer classes -->\n")[1].split("\n\n")[0].splitlines()
    assert table[2:] == lines
