"""Published models from text to text, as transformers: prompts, generation_config.json, outputs."""

import json

import parity
import published
import pytest

from data.text_stream import TextStream
from tools.generator import Generator

torch, transformers = parity.peers()
torch.set_num_threads(1)
pytestmark = pytest.mark.parity

TEXTS = ["the quick brown fox", "low lower lowest", "hello", "newest widest dog jumps over the fox"]
COMMON = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
BOTH = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 96,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip
# class: (fields of its config, generation_config.json)
MODELS = {
    "GPT2LMHeadModel": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "bos_token_id": 0,
                         "eos_token_id": 0, "pad_token_id": 0},
                        {"no_repeat_ngram_size": 2, "eos_token_id": [0, 77], "pad_token_id": 0}),
    "LlamaForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                          "intermediate_size": 48, "max_position_embeddings": 96, **COMMON},
                         {"repetition_penalty": 1.3, **COMMON}),
    "T5ForConditionalGeneration": ({"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
                                    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
                                   {"num_beams": 4, "early_stopping": True, "length_penalty": 0.8,
                                    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}),
    "BartForConditionalGeneration": (BOTH, {"forced_bos_token_id": 0, "num_beams": 2, "eos_token_id": 2,
                                            "no_repeat_ngram_size": 3, "pad_token_id": 1,
                                            "decoder_start_token_id": 2}),
}  # fmt: skip
FILES = {
    "GPT2LMHeadModel": published.byte_level,
    "LlamaForCausalLM": lambda folder: published.sentencepiece(
        folder, published.bpe_pieces(), 2, "tokenizer.model", "llama", bytes=True, collapse=0
    ),
    "T5ForConditionalGeneration": lambda folder: published.sentencepiece(
        folder, published.unigram_pieces(), dummy=1, collapse=1
    ),
    "BartForConditionalGeneration": lambda folder: published.byte_level(folder, "roberta"),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """(the directory, the tokenizer and the model of transformers)."""
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    fields, generation = MODELS[name]
    peer_class = getattr(transformers, name)
    FILES[name](folder)
    config = json.loads((folder / "config.json").read_text())
    model_type = peer_class.config_class.model_type
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = peer_class.config_class(vocab_size=len(tokenizer), **fields)
    config._attn_implementation = "eager"
    peer = parity.randomize(peer_class(config), 0.1 if name[:2] == "T5" else 0.3)
    peer.generation_config = transformers.GenerationConfig(**generation)
    peer.save_pretrained(folder)
    return folder, tokenizer, peer


@pytest.mark.parametrize("given", [{}, {"num_beams": 1}, {"num_beams": 3}], ids=str)
def test_texts_are_those_of_transformers(pair, tmp_path_factory, monkeypatch, given):
    folder, tokenizer, peer = pair
    monkeypatch.setenv("TRIPTYCH_CACHE", str(folder / "cache"))
    generator = Generator(str(folder))
    banned, theirs = {}, {}
    if peer.config.model_type == "llama":  # bytes that are no character have a text of their own
        banned = {"banned_tokens": tuple(range(3, 259))}
        theirs = {"suppress_tokens": list(range(3, 259))}
    forced = peer.generation_config.forced_bos_token_id is not None  # transformers counts it as new
    config = generator.config({"max_new_tokens": 24 - forced, **given, **banned})
    requests = generator.requests(TEXTS)
    own = {} if "num_beams" not in given else {"length_penalty": 1.0, "early_stopping": False}
    for text, request, (found,) in zip(
        TEXTS, requests, generator.complete(requests, config), strict=True
    ):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        assert request.prompt.tokens.tolist() == inputs["input_ids"][0].tolist()
        (tokens,) = peer.generate(**inputs, max_new_tokens=24, **own, **given, **theirs).tolist()
        start = (
            1 + len(request.prompt.decoder_tokens[1:]) if peer.config.is_encoder_decoder else None
        )
        start = start or inputs["input_ids"].shape[1]
        is_stopped = found.tokens[-1] in generator.reader.eos_ids
        assert found.finish_reason == ("stop" if is_stopped else "length")
        assert found.tokens == tokens[start:][: len(found.tokens)]
        # transformers pads to the longest
        assert is_stopped or len(found.tokens) == len(tokens) - start
        if generator.reader.continues and not peer.config.is_encoder_decoder:
            whole, first = (
                tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                for each in (tokens[: start + len(found.tokens)], tokens[:start])
            )
            assert first + found.text == whole
        stream = TextStream(generator.tokenizer)
        alone = "".join([stream.add(token) for token in found.tokens]) + stream.finish()
        assert alone == tokenizer.decode(
            found.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
