"""The train steps that benchmarks/peers.py compares with, in PyTorch and transformers.
Needs the extra [parity]. Uses their fastest settings: scaled_dot_product_attention if a model
supports it, and fused AdamW.
"""

import torch
import transformers


def peer_step(case: str, size: dict, batch: dict, dtype: str, device="cpu", compiles=False):
    """Returns a function that runs one step and returns the loss as a float.

    Args:
      case: encoder, encoder_masked, decoder or encoder_decoder.
      size: num_layers, emb_dim, num_heads, mlp_dim, vocab_size and seq_len.
      batch: NumPy integers `inputs` and `labels` (-100: not predicted).
      dtype: float32 or bfloat16.
      device: cpu or cuda.
      compiles: run the model under torch.compile.
    """
    torch.manual_seed(0)
    model = _model(case, size).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tensors = {
        "input_ids": torch.from_numpy(batch["inputs"]).long().to(device),
        "labels": torch.from_numpy(batch["labels"]).long().to(device),
    }
    forward = torch.compile(model) if compiles else model

    def step() -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(**tensors).loss
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
            hidden_size=size["emb_dim"],
            num_hidden_layers=size["num_layers"],
            num_attention_heads=size["num_heads"],
            intermediate_size=size["mlp_dim"],
            max_position_embeddings=size["seq_len"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **common,
        )
        return _fastest(transformers.BertForMaskedLM, config)
    if case == "decoder":
        config = transformers.GPT2Config(
            n_embd=size["emb_dim"],
            n_layer=size["num_layers"],
            n_head=size["num_heads"],
            n_inner=size["mlp_dim"],
            n_positions=size["seq_len"],
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
        d_model=size["emb_dim"],
        d_kv=size["emb_dim"] // size["num_heads"],
        d_ff=size["mlp_dim"],
        num_layers=size["num_layers"],
        num_heads=size["num_heads"],
        dropout_rate=0.0,
        use_cache=False,
        decoder_start_token_id=0,
        **common,
    )
    return _fastest(transformers.T5ForConditionalGeneration, config)


def _fastest(kind, config):
    """The model with sdpa if it supports it (older versions of T5 do not)."""
    if getattr(kind, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    return kind(config)
