"""Makes tests/huggingface/golden/: tiny models of transformers and their outputs.

python tests/huggingface/make_golden.py [NAME ...]      # in an environment with the extra [parity]

A directory has what save_pretrained writes, without a tokenizer, and `answers.safetensors`: hidden states
and logits for the padded tokens of tests/parity.py, and a greedy continuation.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import parity  # noqa: E402

GOLDEN = pathlib.Path(__file__).parent / "golden"
SPECIAL = {"pad_token_id": 0, "eos_token_id": 4, "bos_token_id": 4}
LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    **SPECIAL,
}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
T5 = {
    "d_model": 12,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 4,
}
MODERNBERT = {
    **BERT,
    "num_hidden_layers": 4,
    "local_attention": 4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
BART = {
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 16,
    "forced_eos_token_id": None,
}
# name: (class, values of its config)
MODELS = {
    "bert": ("BertForPreTraining", BERT),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16} | SPECIAL,
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-v1.1": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}),
    "starcoder2": ("Starcoder2ForCausalLM", {**LLAMA, "sliding_window": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**LLAMA, "hidden_size": 32}),
    "gemma": ("GemmaForCausalLM", {**LLAMA, "head_dim": 8}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **LLAMA,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.5,
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {
            **LLAMA,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "olmo2": ("Olmo2ForCausalLM", LLAMA),
    "phi3": ("Phi3ForCausalLM", LLAMA),
    "mt5": ("MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", {**BERT, "type_vocab_size": 1}),
    "llama3": (
        "LlamaForCausalLM",
        {
            **LLAMA,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "roberta": ("RobertaForMaskedLM", {**BERT, "type_vocab_size": 1}),
    "electra": ("ElectraForMaskedLM", {**BERT, "embedding_size": 12}),
    "electra-discriminator": ("ElectraForPreTraining", {**BERT, "embedding_size": 12}),
    "esm": (
        "EsmForMaskedLM",
        {**BERT, "position_embedding_type": "rotary", "pad_token_id": 0, "eos_token_id": 3},
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 16},
    ),
    "modernbert": ("ModernBertForMaskedLM", MODERNBERT),
    "bart": ("BartForConditionalGeneration", BART),
}


def make(name):
    """Writes one directory, in place of an existing one."""
    class_name, values = MODELS[name]
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(vocab_size=parity.VOCAB_SIZE, **values)
    config._attn_implementation = "eager"
    peer = model_class(config)
    if name == "t5-v1.1":  # transformers ties the output whatever the config has
        peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().clone())
    parity.randomize(peer, 0.1 if name.startswith(("t5", "mt5", "gemma")) else 0.3)
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    peer.save_pretrained(directory)
    written = json.loads((directory / "config.json").read_text())
    written.pop("transformers_version")
    (directory / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)
    arguments = {
        "input_ids": torch.from_numpy(parity.TOKENS).long(),
        "attention_mask": torch.from_numpy(parity.PADDED_MASK).long(),
    }
    has_encoder = peer.config.is_encoder_decoder
    if has_encoder:
        arguments["labels"] = torch.from_numpy(parity.TARGETS).long()
    with torch.no_grad():
        out = peer(**arguments, output_hidden_states=True)
        states = out.decoder_hidden_states if has_encoder else out.hidden_states
        logits = out.prediction_logits if name == "bert" else out.logits
        answers = {"hidden": states[-1].numpy(), "logits": logits.numpy()}
        if hasattr(peer, "generate") and peer.can_generate():
            prompt = torch.from_numpy(parity.TOKENS[:, :5]).long()
            peer.generation_config.eos_token_id = None
            generated = peer.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=parity.NEW_TOKENS,
                do_sample=False,
            )
            answers["greedy"] = generated[:, -parity.NEW_TOKENS :].numpy().astype(np.int32)
    save_file(answers, directory / "answers.safetensors")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make(name)
