"""AutoTokenizer of transformers reads the tokenizer files that we write."""

import pytest
from published import TEXTS, WORDS

from data import tokenizer as tokenizer_module
from data.special_tokens import encode_example, template_for
from huggingface.tokenizers import write_tokenizer

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install -e .[parity]"
)

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("type_", ["bpe", "wordpiece", "unigram"])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("encoder", ""),
        ("decoder", ""),
        ("decoder", "classification"),
        ("encoder_decoder", ""),
    ],
)
def test_auto_tokenizer_encodes_as_we_do(tmp_path, type_, architecture, head):
    made = tokenizer_module.train(TEXTS * 20, type=type_, vocab_size=420)
    types = architecture == "encoder"
    write_tokenizer(made, tmp_path, architecture=architecture, head=head, max_length=64,
                    token_types=types)  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    template = template_for(architecture, made.special_ids(), made.template)
    generates = architecture == "decoder" and not head
    for text in (*TEXTS, *WORDS):
        tokens = made.encode(text)
        expected = tokens if generates else encode_example(tokens, None, template, 64)
        assert auto(text)["input_ids"] == expected.tolist()
        assert auto.decode(tokens) == made.decode(tokens)
    if not generates:
        first, second = "one word", "and two"
        expected = encode_example(made.encode(first), made.encode(second), template, 64)
        assert auto(first, second)["input_ids"] == expected.tolist()
    batch = auto(TEXTS, padding=True)
    assert ("token_type_ids" in batch) == types
    assert auto.padding_side == ("left" if generates else "right")
    assert batch["input_ids"][-1][0 if generates else -1] == auto.pad_token_id == 0
    assert auto.model_max_length == 64 and len(auto) == made.size
    ids = made.special_ids()
    assert [auto.unk_token_id, auto.mask_token_id, auto.eos_token_id] == [
        ids["unk"], ids["mask"], ids["eos"],
    ]  # fmt: skip
    masked = auto(f"one {auto.mask_token} word", add_special_tokens=False)["input_ids"]
    assert masked.count(ids["mask"]) == 1 and len(masked) < 14
