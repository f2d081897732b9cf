"""GPT-2 (Radford et al. 2019). model_type "gpt2".
Kernels lie as here, [in, out]; query, key and value are one tensor, side by side.
"""

from huggingface.family import ACTIVATIONS, OUTPUT, PIECES, Family, Key, Line, Only, dense, norm

LAYER, THEIRS = "decoder/layer_{i}", "transformer.h.{i}"
ATTENTION = f"{LAYER}/self_attention"
QUERY, KEY, VALUE = f"{ATTENTION}/query", f"{ATTENTION}/key", f"{ATTENTION}/value"


def conv1d(ours, theirs):
    """A dense layer as GPT-2 keeps it."""
    return [Line(f"{ours}/kernel", f"{theirs}.weight"), Line(f"{ours}/bias", f"{theirs}.bias")]


GPT2 = Family(
    model_type="gpt2",
    prefix="transformer.",
    classes={
        "GPT2LMHeadModel": "lm",
        "GPT2ForSequenceClassification": "classification",
        "GPT2Model": "",
    },
    lines=[
        Line("embed/tokens/embedding", "transformer.wte.weight", PIECES),
        Line("embed/positions/embedding", "transformer.wpe.weight"),
        *norm(f"{LAYER}/self_attention_norm", f"{THEIRS}.ln_1"),
        Line(
            (f"{QUERY}/kernel", f"{KEY}/kernel", f"{VALUE}/kernel"), f"{THEIRS}.attn.c_attn.weight"
        ),
        Line((f"{QUERY}/bias", f"{KEY}/bias", f"{VALUE}/bias"), f"{THEIRS}.attn.c_attn.bias"),
        *conv1d(f"{ATTENTION}/out", f"{THEIRS}.attn.c_proj"),
        *norm(f"{LAYER}/mlp_norm", f"{THEIRS}.ln_2"),
        *conv1d(f"{LAYER}/mlp/in", f"{THEIRS}.mlp.c_fc"),
        *conv1d(f"{LAYER}/mlp/out", f"{THEIRS}.mlp.c_proj"),
        *norm("decoder/final_norm", "transformer.ln_f"),
        # heads
        Line("heads/lm/kernel", "lm_head.weight", OUTPUT),
        *dense("heads/classification/output", "score"),
    ],
    keys=[
        Key("vocab_size", "vocab_size", 50257),
        Key("n_positions", "max_length", 1024),
        Key("n_layer", "layers", 12),
        Key("n_embd", "width", 768),
        Key("n_head", "heads", 12),
        Key("n_inner", "mlp_size", lambda config: 4 * config.get("n_embd", 768)),
        Key("activation_function", "activation", "gelu_new", ACTIVATIONS),
        Key("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Key("tie_word_embeddings", "tied_embeddings", True),
        Key(("resid_pdrop", "embd_pdrop"), "dropout", 0.1),
        Key("attn_pdrop", "attention_dropout", 0.1),
        Key("initializer_range", "init_std", 0.02),
        Only("scale_attn_weights", True),
        Only("scale_attn_by_inverse_layer_idx", False),
        Only("add_cross_attention", False),
    ],
    fixed={"architecture": "decoder"},
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r".*\.attn\.(masked_)?bias",),
    needs={"classification": {"pooler": False, "head_bias": False, "reading": "state"}},
)
