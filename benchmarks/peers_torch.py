"""The peers of benchmarks/peers.py: the same training step in PyTorch and transformers.
Made once per case by `peer`, called once per round; the only file that needs the extra [parity].
Fastest settings of theirs: scaled_dot_product_attention where a model has it, fused AdamW.
"""

import torch
import transformers


def peer(case: str, size: dict, batch: dict, dtype: str):
    """-> a function of no arguments that runs one update and returns the loss as a float.

    case: encoder, encoder_masked, decoder or encoder_decoder; size: layers, width, heads,
    mlp_size, vocab_size, length; batch: NumPy integers `inputs`, `labels` (-100: not predicted).
    """
    torch.manual_seed(0)
    model = _model(case, size)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tensors = {
        "input_ids": torch.from_numpy(batch["inputs"]).long(),
        "labels": torch.from_numpy(batch["labels"]).long(),
    }

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(**tensors).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _model(case, size):
    common = {"vocab_size": size["vocab_size"]}
    if case in ("encoder", "encoder_masked"):
        config = transformers.BertConfig(
            hidden_size=size["width"],
            num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"],
            intermediate_size=size["mlp_size"],
            max_position_embeddings=size["length"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
        return _fastest(transformers.BertForMaskedLM, config)
    if case == "decoder":
        config = transformers.GPT2Config(
            n_embd=size["width"],
            n_layer=size["layers"],
            n_head=size["heads"],
            n_inner=size["mlp_size"],
            n_positions=size["length"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            **common,
        )
        return _fastest(transformers.GPT2LMHeadModel, config)
    config = transformers.T5Config(
        d_model=size["width"],
        d_kv=size["width"] // size["heads"],
        d_ff=size["mlp_size"],
        num_layers=size["layers"],
        num_heads=size["heads"],
        dropout_rate=0.0,
        use_cache=False,
        decoder_start_token_id=0,
        **common,
    )
    return _fastest(transformers.T5ForConditionalGeneration, config)


def _fastest(kind, config):
    """With sdpa where the model has it (T5 had none for long), else as it comes."""
    if getattr(kind, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    return kind(config)
