"""Tokenizers there and here: AutoTokenizer on what we write, SentencePiece itself on what we read."""

import io

import pytest
from published import TEXTS, WORDS

from data import tokenizer as ours
from data.framing import frame_example, frame_for
from huggingface.tokenizers import read_tokenizer, write_tokenizer

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install -e .[parity]"
)

pytestmark = pytest.mark.parity

PAIRS = [("one word", "and two"), ("the lower", "")]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("encoder", "lm"),
        ("decoder", "lm"),
        ("decoder", "classification"),
        ("encoder_decoder", "lm"),
    ],
)
def test_auto_tokenizer_reads_and_frames_as_we_do(tmp_path, kind, architecture, head):
    made = ours.train(TEXTS * 20, kind=kind, vocab_size=420)
    types = architecture == "encoder"
    write_tokenizer(made, tmp_path, architecture=architecture, head=head, max_length=64,
                    token_types=types)  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    frame = frame_for(architecture, made.special_ids(), made.frame)
    continues = architecture == "decoder" and head == "lm"
    for text in (*TEXTS, *WORDS):
        pieces = made.encode(text)
        framed = pieces if continues else frame_example(pieces, None, frame, 64)
        assert theirs(text)["input_ids"] == framed.tolist()
        assert theirs.decode(pieces) == made.decode(pieces)
    if not continues:
        for first, second in PAIRS[:1]:
            framed = frame_example(made.encode(first), made.encode(second), frame, 64)
            assert theirs(first, second)["input_ids"] == framed.tolist()
    batch = theirs(TEXTS, padding=True)
    assert ("token_type_ids" in batch) == types
    assert theirs.padding_side == ("left" if continues else "right")
    assert batch["input_ids"][-1][0 if continues else -1] == theirs.pad_token_id == 0
    assert theirs.model_max_length == 64 and len(theirs) == made.size
    ids = made.special_ids()
    assert [theirs.unk_token_id, theirs.mask_token_id, theirs.eos_token_id] == [
        ids["unk"], ids["mask"], ids["eos"],
    ]  # fmt: skip
    masked = theirs(f"one {theirs.mask_token} word", add_special_tokens=False)["input_ids"]
    assert masked.count(ids["mask"]) == 1 and len(masked) < 14


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
@pytest.mark.parametrize("recipe", ["t5", "llama"])
def test_a_sentencepiece_model_is_cut_as_sentencepiece_cuts_it(tmp_path, algorithm, recipe):
    library = pytest.importorskip("sentencepiece", reason="needs pip install -e .[parity]")
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
    theirs = library.SentencePieceProcessor(model_proto=model.getvalue())
    made = read_tokenizer(tmp_path)
    hard = ["ﬁne Ⅷ ½ ①", "e\u0301 combining", "tabs\tand\nlines", "x" * 50, "\u2581mark", "", " "]
    for text in [*TEXTS, *WORDS, " two  blanks ", *(hard if recipe == "t5" else hard[:4])]:
        assert made.encode(text).tolist() == theirs.encode(text), text
