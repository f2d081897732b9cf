"""The same weights in transformers' models and in ours give the same hidden states and loss.
Random weights, copied by the small functions here (tools.convert is tested on its own).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.presets import modern
from objectives.loss import chunked_cross_entropy

REASON = "needs PyTorch and transformers: pip install -e .[parity]"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

pytestmark = pytest.mark.parity

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 90, (2, 11)).astype(np.int32)
REPLY = RANDOM.integers(0, 90, (2, 6)).astype(np.int32)
SIZE = {"layers": 2, "width": 32, "heads": 4, "mlp_size": 48, "vocab_size": 90, "max_length": 16}


def randomise(module):
    """Every parameter, norms and biases included, away from its initial value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return module.eval(), {k: v.detach().numpy() for k, v in module.state_dict().items()}


def padded(table):
    return np.pad(table, [(0, 128 - table.shape[0])] + [(0, 0)] * (table.ndim - 1))


def norm(state, name):
    out = {"scale": state[f"{name}.weight"]}
    return out | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def linear(state, name):
    out = {"kernel": state[f"{name}.weight"].T}
    return out | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def conv1d(state, name, part=slice(None)):
    return {
        "kernel": state[f"{name}.weight"][:, part],
        "bias": state[f"{name}.bias"][part],
    }


def row(tokens, visibility="all", types=None):
    tokens = jnp.asarray(tokens)
    return models.sequence_of(tokens, jnp.ones_like(tokens), visibility, types=types)


def ours(config, params, targets, *sequences):
    """(hidden, mean cross entropy) of our network with these parameters, all of them used."""
    model = models.build(config)
    expected = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *sequences, method="initialise")["params"]
    )
    params = jax.tree.map(jnp.asarray, params)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    variables = {"params": params}
    hidden = model.apply(variables, *sequences)
    features = model.apply(variables, hidden, method="readout")
    table, bias = model.apply(variables, method="unembedding")
    total, weight, _ = chunked_cross_entropy(
        features, table, bias, jnp.asarray(targets), jnp.ones(targets.shape), config.vocab_size
    )
    return hidden, total / weight


def agree(hidden, loss, theirs, their_hidden):
    theirs, their_hidden = theirs.detach().numpy(), their_hidden.detach().numpy()
    np.testing.assert_allclose(hidden, their_hidden, atol=2e-5 * np.abs(their_hidden).max())
    np.testing.assert_allclose(loss, theirs, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert-base", "electra-small-generator"])
def test_bert_and_electra(name):
    """ELECTRA's generator is BERT with embeddings of another width, here 24 for 32."""
    electra = name.startswith("electra")
    shape = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 16,
    }
    if electra:
        config = transformers.ElectraConfig(**shape, embedding_size=24)
        peer, s = randomise(transformers.ElectraForMaskedLM(config))
    else:
        peer, s = randomise(transformers.BertForMaskedLM(transformers.BertConfig(**shape)))
    trunk = name.partition("-")[0]
    names = {
        "self_attention.query": "attention.self.query",
        "self_attention.key": "attention.self.key",
        "self_attention.value": "attention.self.value",
        "self_attention.out": "attention.output.dense",
        "mlp.in": "intermediate.dense",
        "mlp.out": "output.dense",
    }
    layers = {}
    for i in range(2):
        at = f"{trunk}.encoder.layer.{i}."
        layer = {"self_attention": {}, "mlp": {}}
        for ours_name, theirs_name in names.items():
            room, leaf = ours_name.split(".")
            layer[room][leaf] = linear(s, at + theirs_name)
        layer["self_attention_norm"] = norm(s, at + "attention.output.LayerNorm")
        layer["mlp_norm"] = norm(s, at + "output.LayerNorm")
        layers[f"layer_{i}"] = layer
    embeddings = f"{trunk}.embeddings."
    head = "generator_predictions" if electra else "cls.predictions.transform"
    bias = "generator_lm_head.bias" if electra else "cls.predictions.bias"
    params = {
        "embed": {
            "tokens": {"embedding": padded(s[embeddings + "word_embeddings.weight"])},
            "positions": {"embedding": s[embeddings + "position_embeddings.weight"]},
            "types": {"embedding": s[embeddings + "token_type_embeddings.weight"]},
            "norm": norm(s, embeddings + "LayerNorm"),
        },
        "encoder": layers,
        "heads": {
            "lm": {
                "transform": linear(s, f"{head}.dense"),
                "norm": norm(s, f"{head}.LayerNorm"),
                "bias": padded(s[bias]),
            }
        },
    }
    if electra:
        params["projection"] = linear(s, "electra.embeddings_project")
    size = {**SIZE, "embedding_size": 24 if electra else 0}
    config = models.ModelConfig(**{**models.preset(name), **size})
    types = np.tile(np.arange(11) >= 5, (2, 1)).astype(np.int32)
    targets = RANDOM.integers(0, 90, TOKENS.shape).astype(np.int32)
    out = peer(
        input_ids=torch.from_numpy(TOKENS).long(),
        token_type_ids=torch.from_numpy(types).long(),
        labels=torch.from_numpy(targets).long(),
        output_hidden_states=True,
    )
    result = ours(config, params, targets, row(TOKENS, types=jnp.asarray(types)))
    agree(*result, out.loss, out.hidden_states[-1])


def test_gpt2():
    peer, s = randomise(
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=90,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_inner=48,
                n_positions=16,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    )
    layers = {}
    for i in range(2):
        at = f"transformer.h.{i}."
        parts = {
            name: conv1d(s, at + "attn.c_attn", slice(j * 32, (j + 1) * 32))
            for j, name in enumerate(("query", "key", "value"))
        }
        layers[f"layer_{i}"] = {
            "self_attention": parts | {"out": conv1d(s, at + "attn.c_proj")},
            "mlp": {"in": conv1d(s, at + "mlp.c_fc"), "out": conv1d(s, at + "mlp.c_proj")},
            "self_attention_norm": norm(s, at + "ln_1"),
            "mlp_norm": norm(s, at + "ln_2"),
        }
    params = {
        "embed": {
            "tokens": {"embedding": padded(s["transformer.wte.weight"])},
            "positions": {"embedding": s["transformer.wpe.weight"]},
        },
        "decoder": layers | {"final_norm": norm(s, "transformer.ln_f")},
    }
    config = models.ModelConfig(**{**models.preset("gpt2"), **SIZE})
    tokens = torch.from_numpy(TOKENS).long()
    out = peer(input_ids=tokens, labels=tokens, output_hidden_states=True)
    hidden, loss = ours(config, params, TOKENS[:, 1:], row(TOKENS[:, :-1], "causal"))
    agree(hidden, loss, out.loss, out.hidden_states[-1][:, :-1])


@pytest.mark.parametrize("name", ["t5-small", "t5-v1.1-small"])
def test_t5(name):
    newer = "v1.1" in name
    peer, s = randomise(
        transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=90,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                relative_attention_num_buckets=8,
                relative_attention_max_distance=10,
                feed_forward_proj="gated-gelu" if newer else "relu",
                tie_word_embeddings=not newer,
                decoder_start_token_id=0,
                pad_token_id=0,
            )
        )
    )

    def attention(name):
        leaves = {"query": "q", "key": "k", "value": "v", "out": "o"}
        return {ours: linear(s, f"{name}.{theirs}") for ours, theirs in leaves.items()}

    def stack(name, cross):
        first = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        out = {
            "relative_bias": {"embedding": s[first]},
            "final_norm": norm(s, f"{name}.final_layer_norm"),
        }
        for i in range(2):
            at = f"{name}.block.{i}.layer"
            last = f"{at}.{2 if cross else 1}"
            layer = {
                "self_attention": attention(f"{at}.0.SelfAttention"),
                "self_attention_norm": norm(s, f"{at}.0.layer_norm"),
                "mlp_norm": norm(s, f"{last}.layer_norm"),
            }
            if cross:
                layer["cross_attention"] = attention(f"{at}.1.EncDecAttention")
                layer["cross_attention_norm"] = norm(s, f"{at}.1.layer_norm")
            leaves = {"gate": "wi_0", "in": "wi_1"} if newer else {"in": "wi"}
            leaves["out"] = "wo"
            layer["mlp"] = {a: linear(s, f"{last}.DenseReluDense.{b}") for a, b in leaves.items()}
            out[f"layer_{i}"] = layer
        return out

    params = {
        "embed": {"tokens": {"embedding": padded(s["shared.weight"])}},
        "encoder": stack("encoder", False),
        "decoder": stack("decoder", True),
    }
    if newer:
        params["heads"] = {"lm": {"kernel": padded(s["lm_head.weight"]).T}}
    biases = {"relative_buckets": 8, "relative_max_distance": 10}
    config = models.ModelConfig(**{**models.preset(name), **SIZE, **biases, "head_size": 8})
    out = peer(
        input_ids=torch.from_numpy(TOKENS).long(),
        labels=torch.from_numpy(REPLY).long(),
        output_hidden_states=True,
    )
    shifted = np.concatenate([np.zeros((2, 1), np.int32), REPLY[:, :-1]], axis=1)
    hidden, loss = ours(config, params, REPLY, row(TOKENS), row(shifted, "causal"))
    agree(hidden, loss, out.loss, out.decoder_hidden_states[-1])


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_the_modern_recipe_with_an_untied_output_is_qwen3_and_without_qk_norm_llama(name):
    qk_norm = name == "Qwen3"
    config = getattr(transformers, f"{name}Config")(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    peer, s = randomise(getattr(transformers, f"{name}ForCausalLM")(config))
    layers = {}
    for i in range(2):
        at = f"model.layers.{i}."
        leaves = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
        mlp = {"gate": "gate_proj", "in": "up_proj", "out": "down_proj"}
        layers[f"layer_{i}"] = {
            "self_attention": {a: linear(s, f"{at}self_attn.{b}") for a, b in leaves.items()},
            "mlp": {a: linear(s, f"{at}mlp.{b}") for a, b in mlp.items()},
            "self_attention_norm": norm(s, at + "input_layernorm"),
            "mlp_norm": norm(s, at + "post_attention_layernorm"),
        }
        if qk_norm:
            norms = {f"{a}_norm": norm(s, f"{at}self_attn.{a[0]}_norm") for a in ("query", "key")}
            layers[f"layer_{i}"]["self_attention"] |= norms
    params = {
        "embed": {"tokens": {"embedding": padded(s["model.embed_tokens.weight"])}},
        "decoder": layers | {"final_norm": norm(s, "model.norm")},
        "heads": {"lm": {"kernel": padded(s["lm_head.weight"]).T}},
    }
    recipe = modern({"architecture": "decoder", **SIZE})
    changes = {**SIZE, "kv_heads": 2, "qk_norm": qk_norm, "tied_embeddings": False}
    config = models.ModelConfig(**{**recipe, **changes})
    tokens = torch.from_numpy(TOKENS).long()
    out = peer(input_ids=tokens, labels=tokens, output_hidden_states=True)
    hidden, loss = ours(config, params, TOKENS[:, 1:], row(TOKENS[:, :-1], "causal"))
    agree(hidden, loss, out.loss, out.hidden_states[-1][:, :-1])
