"""Greedy search, beam search and logits processors of transformers and ours: equal tokens and scores."""

import numpy as np
import parity
import pytest

import models
from generation import GenerationConfig, Prompt, generate
from huggingface import convert

torch, transformers = parity.peers()
torch.set_num_threads(1)

pytestmark = pytest.mark.parity

VOCAB_SIZE, NEW_TOKENS, PROMPTS, EOS = 90, 64, 20, 4
SEED = 1  # of parameters with no near tie: with 0, two beams of Gemma 2 differ by less than float32 resolves
DECODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 96, "bos_token_id": None, "eos_token_id": EOS,
    "pad_token_id": 0,
}  # fmt: skip
BOTH = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 96, "forced_eos_token_id": None, "eos_token_id": EOS, "pad_token_id": 1,
    "decoder_start_token_id": EOS,
}  # fmt: skip
MODELS = {
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "bos_token_id": EOS,
                        "eos_token_id": EOS, "pad_token_id": 0},
    "MistralForCausalLM": {**DECODER, "sliding_window": 8},
    "Gemma2ForCausalLM": {**DECODER, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 8,
                          "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5},
    "BartForConditionalGeneration": BOTH,
    "T5ForConditionalGeneration": {
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": EOS},
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """(model of transformers, ours with the same parameters)."""
    folder = tmp_path_factory.mktemp(request.param)
    peer_class = getattr(transformers, request.param)
    config = peer_class.config_class(vocab_size=VOCAB_SIZE, **MODELS[request.param])
    config._attn_implementation = "eager"
    scale = 0.1 if request.param[:2] in ("Ge", "T5") else 0.3
    peer = parity.randomize(peer_class(config), scale, SEED)
    peer.save_pretrained(folder / "source")
    parity.write_tokenizer(folder / "source")
    convert.from_hf(str(folder / "source"), str(folder / "run"))
    return peer, parity.NativeModel.load(folder / "run")


def prompts_of(native, lengths):
    random = np.random.default_rng(1)
    start = (
        np.array([native.start], np.int32) if native.is_encoder_decoder else np.zeros(0, np.int32)
    )
    return [
        Prompt(random.integers(5, VOCAB_SIZE, n).astype(np.int32), decoder_tokens=start)
        for n in lengths
    ]


def peer_outputs(peer, native, prompts, count, **options):
    """{index of a prompt: [(tokens without the prompt, score or None), ...]} of peer.generate, in batches of
    prompts of one length."""
    found = {}
    peer.generation_config.forced_eos_token_id = None
    for length in sorted({len(prompt.tokens) for prompt in prompts}):
        indices = [i for i, prompt in enumerate(prompts) if len(prompt.tokens) == length]
        tokens = torch.from_numpy(np.stack([prompts[i].tokens for i in indices])).long()
        out = peer.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW_TOKENS,
            do_sample=False, num_return_sequences=count, return_dict_in_generate=True,
            output_scores=True, **options,
        )  # fmt: skip
        rows = out.sequences[:, 1 if native.is_encoder_decoder else length :].tolist()
        scores = out.sequences_scores.tolist() if "num_beams" in options else [None] * len(rows)
        for number, pair in enumerate(zip(rows, scores, strict=True)):
            found.setdefault(indices[number // count], []).append(pair)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4},
        {"num_beams": 4, "early_stopping": True, "length_penalty": 0.0, "num_return_sequences": 2},
        {
            "num_beams": 3,
            "early_stopping": "never",
            "length_penalty": 2.0,
            "no_repeat_ngram_size": 2,
        },
        {"repetition_penalty": 1.7, "no_repeat_ngram_size": 3, "min_new_tokens": 20},
    ],
    ids=str,
)
def test_search_finds_the_tokens_of_transformers(pair, options):
    (peer, native), options = pair, dict(options)
    prompts = prompts_of(native, [5 + 4 * (i % 2) for i in range(PROMPTS)])
    ours = dict(options)
    if "early_stopping" in ours:
        ours["early_stopping"] = str(ours["early_stopping"]).lower()
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, batch_size=64, **ours)
    found = generate(models.build(native.config), native.params, prompts, config, eos_ids=(EOS,))
    count = options.pop("num_return_sequences", 1)
    expected = peer_outputs(peer, native, prompts, count, **options)
    for number, rows in enumerate(found):
        for row, (tokens, score) in zip(rows, expected[number], strict=True):
            length = len(row.tokens)
            assert row.tokens.tolist() == tokens[:length]
            assert set(tokens[length:]) <= {peer.config.pad_token_id, EOS}
            if score is not None:
                np.testing.assert_allclose(row.score, score, rtol=1e-4)
