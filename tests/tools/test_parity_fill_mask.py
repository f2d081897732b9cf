"""tools.fill_mask against transformers: the fill-mask pipeline of random BERT and RoBERTa, spans of T5, and
texts of BART.

With several masks the pipeline predicts each alone, as `masks` of a record and order=joint here do. Its
lists hold special tokens too, which fill no mask here; probabilities are of the same softmax.
"""

import math

import parity
import pytest
from published import byte_level, sentencepiece, unigram_pieces, wordpiece
from tokenizers import AddedToken

from generation import FillConfig
from tools.filler import Filler

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

MASKS = ["the {} brown fox", "{} lower and {}{} lazy", "hello newest{}", "un{}able"]


def fill(directory, texts, tokens=0, **options):
    filler = Filler(str(directory))
    parsed = [filler.parse(f"text {n}", text) for n, text in enumerate(texts)]
    rows = [filler.row(text) for text in parsed]
    return filler, rows, filler.fill(parsed, rows, FillConfig(**options), [0] * len(texts), tokens)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_probabilities_equal_those_of_the_fill_mask_pipeline(family, tmp_path):
    wordpiece(tmp_path) if family == "Bert" else byte_level(tmp_path, "roberta")
    # The mask of the published RoBERTa takes the blank before it.
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    changes = {} if family == "Bert" else {"mask_token": mask}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, **changes)
    tokenizer.save_pretrained(tmp_path)
    special = {
        name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), **{**parity.ENCODER, "max_position_embeddings": 40},
        **{name: value for name, value in special.items() if value is not None},
    )  # fmt: skip
    torch.manual_seed(0)
    peer = parity.randomize(getattr(transformers, f"{family}ForMaskedLM")(config))
    peer.save_pretrained(tmp_path)
    pipeline = transformers.pipeline(
        "fill-mask", model=peer, tokenizer=tokenizer, top_k=len(tokenizer), device="cpu"
    )
    texts = [text.replace("{}", tokenizer.mask_token) for text in MASKS]
    filler, rows, records = fill(tmp_path, texts, order="joint", num_return_sequences=8)
    for text, row, record in zip(texts, rows, records, strict=True):
        assert row.tolist() == tokenizer(text)["input_ids"]
        expected = pipeline(text)
        expected = [expected] if isinstance(expected[0], dict) else expected
        assert len(expected) == len(record["masks"]) == text.count(tokenizer.mask_token)
        best = []
        for masks, found in zip(expected, record["masks"], strict=True):
            masks = [each for each in masks if each["token"] not in tokenizer.all_special_ids][:8]
            assert [each["id"] for each in found] == [each["token"] for each in masks]
            assert [each["token"].strip() for each in found] == [
                each["token_str"].strip() for each in masks
            ]
            for ours, theirs in zip(found, masks, strict=True):
                assert ours["probability"] == pytest.approx(theirs["score"], abs=1e-5)
            best.append(masks[0])
        assert record["fills"][0]["probability"] == pytest.approx(
            math.prod(each["score"] for each in best), rel=1e-4
        )
        if len(best) == 1:
            assert record["fills"][0]["text"] == best[0]["sequence"]
    # [MASK] means the tokenizer's own mask.
    literal = filler.row(filler.parse("text", MASKS[0].replace("{}", "[MASK]")))
    assert literal.tolist() == rows[0].tolist()


def test_spans_of_t5_equal_those_that_transformers_generates(tmp_path):
    sentencepiece(tmp_path, unigram_pieces())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = parity.randomize(transformers.T5ForConditionalGeneration(config), 0.1)
    peer.save_pretrained(tmp_path)
    text = "the quick <extra_id_0> low <extra_id_1>er"
    filler, (row,), (record,) = fill(tmp_path, [text], num_return_sequences=1)
    assert row.tolist() == tokenizer(text)["input_ids"]
    start = [0, tokenizer.convert_tokens_to_ids("<extra_id_0>")]
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<extra_id_2>")]
    out = peer.generate(
        torch.tensor([row.tolist()]), decoder_input_ids=torch.tensor([start]), max_new_tokens=64,
        do_sample=False, eos_token_id=stops,
    )[0].tolist()[1:]  # fmt: skip
    spans, at = {}, None
    for token in out:
        name = tokenizer.convert_ids_to_tokens(token)
        at = name if name.startswith("<extra_id_") else at
        spans.setdefault(at, []).extend([token] * (at != name and token not in stops))
    expected = [spans.get(f"<extra_id_{n}>", []) for n in range(2)]
    assert record["fills"][0]["filled"] == [filler.loaded.tokenizer.decode(ids) for ids in expected]
    assert "<extra_id" not in record["fills"][0]["text"]
    # [MASK] is the next sentinel.
    literal = fill(
        tmp_path, [text.replace("<extra_id_0>", "[MASK]").replace("<extra_id_1>", "[MASK]")]
    )
    assert literal[2][0]["fills"] == record["fills"]


def test_infilling_by_bart_equals_the_text_that_transformers_generates(tmp_path):
    byte_level(tmp_path, "roberta")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), **parity.BART | {"max_position_embeddings": 40},
    )  # fmt: skip
    torch.manual_seed(0)
    peer = parity.randomize(transformers.BartForConditionalGeneration(config), 0.5)
    peer.generation_config.forced_bos_token_id = tokenizer.bos_token_id
    peer.save_pretrained(tmp_path)
    text = "the quick<mask> lazy"
    filler, (row,), (record,) = fill(tmp_path, [text], 20, num_return_sequences=1)
    assert row.tolist() == tokenizer(text)["input_ids"]
    # Their count includes the forced first token, and BART's forced end token.
    out = peer.generate(torch.tensor([row.tolist()]), max_new_tokens=22, do_sample=False)
    expected = tokenizer.decode(out[0], skip_special_tokens=True)
    assert record["fills"][0]["text"] == expected
    assert "filled" not in record["fills"][0]
