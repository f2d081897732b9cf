"""config.json files as they are published, with the keys of the versions that wrote them, are read."""

import pytest

from huggingface.families import FAMILIES
from models.config import ModelConfig

BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "gradient_checkpointing": False, "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0", "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
    "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21,
    "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
    "num_heads": 8, "num_layers": 6, "output_past": True, "pad_token_id": 0,
    "relative_attention_num_buckets": 32, "vocab_size": 32128,
    "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}},
}  # fmt: skip
SCALED = {
    "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 8192,
    "rope_theta": 500000.0,
}  # fmt: skip
# name: (config.json, fields of the model)
PUBLISHED = {
    "bert": (BERT, {"emb_dim": 768, "norm_epsilon": 1e-12}),
    "llama 3.1": (LLAMA, SCALED),
    "llama 3.1, rewritten by transformers 5": (
        {**{k: v for k, v in LLAMA.items() if k not in ("rope_scaling", "rope_theta")},
         "rope_parameters": {**LLAMA["rope_scaling"], "rope_theta": 500000.0}},
        SCALED,
    ),
    "llama 2": (
        {k: v for k, v in LLAMA.items() if k not in ("rope_scaling", "rope_theta")}
        | {"rope_scaling": None, "max_length": 4096, "_name_or_path": "x", "vocab_size": 32000},
        {"rope_scaling": "none", "rope_theta": 10_000.0},
    ),
    "qwen2.5": (QWEN, {"sliding_window": 0, "rope_theta": 1e6, "use_qkv_bias": True}),
    "qwen2.5, yarn": (
        QWEN | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768,
                                 "type": "yarn"}},
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_attention_factor": 0.0},
    ),
    "t5": (T5, {"gated_mlp": False, "scale_logits_by_embedding_size": True}),
    "flan-t5": (
        T5 | {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True,
              "tie_word_embeddings": False, "classifier_dropout": 0.0, "num_decoder_layers": 6},
        {"gated_mlp": True, "activation": "gelu_tanh", "scale_logits_by_embedding_size": False},
    ),
    "mt5": (
        {k: v for k, v in T5.items() if k != "n_positions"}
        | {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
           "tokenizer_class": "T5Tokenizer", "vocab_size": 250112, "num_heads": 6},
        {"scale_logits_by_embedding_size": False, "num_layers": 6},
    ),
    "gpt2": (
        {"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
         "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
         "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
         "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
         "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
         "summary_use_proj": True, "vocab_size": 50257,
         "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
        {"embedding_dropout_rate": -1.0, "dropout_rate": 0.1, "mlp_dim": 3072},
    ),
    "bart": (
        {"activation_dropout": 0.1, "activation_function": "gelu", "add_bias_logits": False,
         "add_final_layer_norm": False, "attention_dropout": 0.1, "bos_token_id": 0,
         "classif_dropout": 0.1, "classifier_dropout": 0.0, "d_model": 768,
         "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "decoder_layerdrop": 0.0,
         "decoder_layers": 6, "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True,
         "encoder_attention_heads": 12, "encoder_ffn_dim": 3072, "encoder_layerdrop": 0.0,
         "encoder_layers": 6, "eos_token_id": 2, "forced_eos_token_id": 2, "gradient_checkpointing": False,
         "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02,
         "is_encoder_decoder": True, "max_position_embeddings": 1024, "model_type": "bart",
         "no_repeat_ngram_size": 3, "normalize_before": False, "normalize_embedding": True,
         "num_beams": 4, "num_hidden_layers": 6, "pad_token_id": 1, "scale_embedding": False,
         "vocab_size": 50265},
        {"num_layers": 6, "position_offset": 2},
    ),
    "xlm-roberta": (
        BERT | {"model_type": "xlm-roberta", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
                "output_past": True, "max_position_embeddings": 514, "type_vocab_size": 1,
                "vocab_size": 250002, "layer_norm_eps": 1e-05},
        {"position_offset": 2, "max_length": 512},
    ),
    "modernbert": (
        {"attention_bias": False, "attention_dropout": 0.0, "classifier_activation": "gelu",
         "classifier_bias": False, "classifier_dropout": 0.0, "classifier_pooling": "mean",
         "decoder_bias": True, "deterministic_flash_attn": False, "embedding_dropout": 0.0,
         "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False,
         "hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0,
         "intermediate_size": 1152, "layer_norm_eps": 1e-05, "local_attention": 128,
         "local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False,
         "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05,
         "num_attention_heads": 12, "num_hidden_layers": 22, "position_embedding_type": "absolute",
         "reference_compile": None, "sparse_pred_ignore_index": -100, "sparse_prediction": False,
         "tie_word_embeddings": True, "vocab_size": 50368},
        {"sliding_window": 65, "rope_theta": 160_000.0, "local_rope_theta": 10_000.0},
    ),
    "pythia": (
        {"bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 512,
         "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-05,
         "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8,
         "num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25,
         "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
         "use_parallel_residual": True, "vocab_size": 50304},
        {"partial_rotary_factor": 0.25, "parallel_residual": True, "rope_theta": 10_000.0},
    ),
    "gemma": (
        {"attention_bias": False, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": None,
         "hidden_size": 2048, "intermediate_size": 16384, "max_position_embeddings": 8192,
         "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18,
         "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
         "vocab_size": 256000},
        {"activation": "gelu_tanh", "num_kv_heads": 1, "norm_scale_offset": True},
    ),
    "gemma 2": (
        {"attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
         "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
         "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
         "hidden_size": 3584, "intermediate_size": 14336, "max_position_embeddings": 8192,
         "model_type": "gemma2", "num_attention_heads": 16, "num_hidden_layers": 42,
         "num_key_value_heads": 8, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
         "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096,
         "vocab_size": 256000},
        {"attention_logit_softcap": 50.0, "final_logit_softcap": 30.0, "sliding_window": 4096,
         "global_attn_every_n_layers": 2, "first_global_layer": 1, "norm_position": "both",
         "attention_scale_dim": 256, "activation": "gelu_tanh"},
    ),
    "gemma 3": (
        {"attention_bias": False, "attn_logit_softcapping": None, "cache_implementation": "hybrid",
         "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
         "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
         "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
         "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
         "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
         "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144},
        {"global_attn_every_n_layers": 6, "first_global_layer": 5, "local_rope_theta": 10_000.0},
    ),
    "phi-3": (
        {"attention_dropout": 0.0, "attention_bias": False, "embd_pdrop": 0.0, "hidden_act": "silu",
         "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "hidden_size": 3072,
         "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3",
         "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
         "original_max_position_embeddings": 4096, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
         "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
         "rope_theta": 10000.0, "sliding_window": 262144, "vocab_size": 32064},
        {"rope_scaling": "longrope", "rope_factor": 32.0, "rope_original_length": 4096},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_and_what_it_says_is_written_again(name):
    config, fields = PUBLISHED[name]
    family = FAMILIES[config["model_type"]]
    model, ignored = family.read_config(config)
    assert isinstance(model, ModelConfig)
    assert {field: getattr(model, field) for field in fields} == fields
    written, problems = family.hf_config(model)
    assert problems == []
    again = {key: value for key, value in config.items() if key not in written} | written
    assert family.read_config(again) == (model, ignored)
