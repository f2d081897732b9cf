"""Published models, parameter for parameter, by shapes alone: nothing is allocated.
Our vocabulary padding is subtracted by hand.
"""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import parity
import pytest

import models
from models.presets import MLP_DIM_MULTIPLE, PRESETS, RECIPES, preset, recipe, size_fields


def param_sizes(config, head=True):
    """{path: size} of the parameters of a ModelConfig."""
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    inputs = models.ModelInputs(tokens=row, segment_ids=row, positions=row)
    decoder_inputs = inputs if config.architecture == "encoder_decoder" else None
    model, method = models.build(config), "init_all" if head else "__call__"
    tree = jax.eval_shape(
        lambda *inputs: model.init(jax.random.key(0), *inputs, method=method)["params"],
        inputs,
        decoder_inputs,
    )
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf.size for path, leaf in flat}


def count(config, head=True):
    """Parameters without vocabulary padding. A model with one layer, which traces fast, times the
    layers (tested below)."""
    one_layer = dataclasses.replace(config, num_layers=1, num_decoder_layers=0)
    sizes = param_sizes(one_layer, head)
    total = sum(n * (config.num_layers if "/layer_0/" in path else 1) for path, n in sizes.items())
    if config.skip_first_prenorm:
        total += (config.num_layers - 1) * config.emb_dim * (1 + config.use_bias)
    padding = config.padded_vocab_size - config.vocab_size
    per_token = config.resolved_embedding_size
    if head:
        per_token += config.lm_head_bias + (not config.tie_word_embeddings) * config.emb_dim
    return total - padding * per_token


def config_of(name):
    return models.ModelConfig(**{"max_length": 1, **preset(name)})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert count(config_of(name), PRESETS[name].counts_head) == PRESETS[name].num_params


def test_all_layers_have_equal_sizes():
    config = models.ModelConfig(architecture="encoder_decoder", vocab_size=128, max_length=8,
                                **size_fields("tiny"))  # fmt: skip
    assert sum(param_sizes(config).values()) == count(config)


# Millions of parameters according to the papers and their repositories; for BERT and ELECTRA with a
# pooler of D^2 + D where the release has one.
ROUND = {
    "bert-tiny": 4.4, "bert-mini": 11.3, "bert-small": 29.1, "bert-medium": 41.7,
    "bert-base": 110, "bert-large": 335, "electra-small": 14, "electra-base": 110,
    "roberta-base": 125, "roberta-large": 355, "distilbert-base": 66,
    "modernbert-base": 149, "modernbert-large": 395, "bart-base": 140, "bart-large": 400,
    "gpt2": 124, "gpt2-medium": 355, "gpt2-large": 774, "gpt2-xl": 1558,
    "t5-small": 60, "t5-base": 220, "t5-large": 770, "t5-3b": 2800, "t5-11b": 11000,
    "t5-v1.1-small": 77, "t5-v1.1-base": 250, "t5-v1.1-large": 800, "t5-v1.1-xl": 3000,
    "t5-v1.1-xxl": 11000,
}  # fmt: skip


def test_the_counts_are_those_of_the_papers():
    for name, millions in ROUND.items():
        assert PRESETS[name].num_params == pytest.approx(1e6 * millions, rel=0.055), name
    # With its pooler and without its head BERT-base has 109,482,240, and BERT-Tiny 4,385,920.
    for name, published in (("bert-base", 109_482_240), ("bert-tiny", 4_385_920)):
        emb_dim = config_of(name).emb_dim
        assert count(config_of(name), head=False) + emb_dim * (emb_dim + 1) == published


def test_gated_untied_and_grouped_query_counts_are_those_of_llama():
    """Llama 2 7B and Llama 3 8B have options that no preset has, RoPE among them."""
    common = {"architecture": "decoder", "num_layers": 32, "emb_dim": 4096, "num_heads": 32,
              "max_length": 1, "positions": "rope", "norm": "rmsnorm", "activation": "silu",
              "gated_mlp": True, "use_bias": False, "tie_word_embeddings": False}  # fmt: skip
    second = models.ModelConfig(**common, mlp_dim=11008, vocab_size=32000)
    third = models.ModelConfig(**common, mlp_dim=14336, vocab_size=128256, num_kv_heads=8)
    assert (count(second), count(third)) == (6_738_415_616, 8_030_261_248)


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
@pytest.mark.parametrize("size", ["tiny", "mini", "base", "xl"])
def test_the_modern_recipe_has_as_many_parameters_as_the_classic_one(architecture, size):
    fields = {"architecture": architecture, **size_fields(size)}
    rest = {"vocab_size": 128, "max_length": 1}
    modern = models.ModelConfig(**recipe("modern", fields), **rest)
    classic = models.ModelConfig(**fields, positions="rope", norm="rmsnorm", use_bias=False, **rest)
    rounding = 3 * MLP_DIM_MULTIPLE * classic.emb_dim / 2  # half a multiple, in each MLP
    both = architecture == "encoder_decoder"
    mlps = classic.num_layers * (2 if both else 1)
    qk_scales = 2 * mlps * classic.resolved_head_dim * (1.5 if both else 1)
    assert abs(count(modern) - count(classic)) <= mlps * rounding + qk_scales
    assert count(modern) == pytest.approx(count(classic), rel=0.02)
    assert modern.num_heads % modern.num_kv_heads == 0 and modern.mlp_dim % MLP_DIM_MULTIPLE == 0
    assert modern.qk_norm and modern.gated_mlp and not modern.use_bias and modern.norm == "rmsnorm"


@pytest.mark.parametrize("size", ["tiny", "mini", "base", "xl"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_the_parameters_of_a_size(name, size):
    rest = {"vocab_size": 128, "max_length": 1}
    for architecture in RECIPES[name]:
        fields = {"architecture": architecture, **size_fields(size)}
        expected = models.ModelConfig(**fields, positions="rope", **rest)
        found = models.ModelConfig(**recipe(name, fields), **rest)
        assert count(found) == pytest.approx(count(expected), rel=0.06), architecture


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown size 'nano': expected one of tiny"):
        size_fields("nano")
    with pytest.raises(ValueError, match="unknown preset 'bert-huge': expected one of bert-tiny"):
        preset("bert-huge")
    with pytest.raises(
        ValueError,
        match="unknown preset 'gpt2' for architecture encoder: expected one of bert-tiny",
    ):
        preset("gpt2", "encoder")


def test_the_page_names_every_option_and_every_preset_with_its_shape_and_count():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    unnamed = {f.name for f in dataclasses.fields(models.ModelConfig) if f"`{f.name}`" not in page}
    assert unnamed == set()
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    assert rows.keys() == PRESETS.keys()
    for name, (fields, num_params, counted_class, source, _) in PRESETS.items():
        *sizes, params_cell, class_cell, source_cell = rows[name]
        names = ("num_layers", "emb_dim", "num_heads", "mlp_dim")
        assert [int(re.match(r"\d+", cell)[0]) for cell in sizes] == [fields[n] for n in names]
        assert [params_cell, class_cell, source_cell] == [f"{num_params:,}", counted_class, source]
        for cell, key in ((sizes[1], "embedding_size"), (sizes[2], "head_dim")):
            extra = re.search(r"\d+\D+(\d+)", cell)
            assert extra is None or int(extra[1]) == fields[key]


@pytest.mark.parity
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_the_model_in_transformers(name):
    """Built from the published configs on PyTorch's meta device, which allocates nothing."""
    torch, transformers = parity.peers()
    f = preset(name)
    if name.startswith("gpt2"):
        config = transformers.GPT2Config(
            n_embd=f["emb_dim"], n_layer=f["num_layers"], n_head=f["num_heads"]
        )
    elif name.startswith("t5"):
        is_v1_1 = "v1.1" in name
        config = transformers.T5Config(
            d_model=f["emb_dim"], d_kv=f["head_dim"], d_ff=f["mlp_dim"], num_layers=f["num_layers"],
            num_heads=f["num_heads"], feed_forward_proj="gated-gelu" if is_v1_1 else "relu",
            tie_word_embeddings=not is_v1_1,
        )  # fmt: skip
    elif name.startswith("bart"):
        config = transformers.BartConfig(
            d_model=f["emb_dim"], encoder_layers=f["num_layers"], decoder_layers=f["num_layers"],
            encoder_ffn_dim=f["mlp_dim"], decoder_ffn_dim=f["mlp_dim"],
        )  # fmt: skip
    elif name.startswith("distilbert"):
        config = transformers.DistilBertConfig(dim=f["emb_dim"], n_layers=f["num_layers"])
    elif name.startswith(("roberta", "modernbert")):
        config_class = getattr(
            transformers, PRESETS[name].counted_class.replace("ForMaskedLM", "Config")
        )
        extra = {"type_vocab_size": 1, "max_position_embeddings": 514} if "roberta" in name else {}
        config = config_class(
            vocab_size=f["vocab_size"], hidden_size=f["emb_dim"], num_hidden_layers=f["num_layers"],
            num_attention_heads=f["num_heads"], intermediate_size=f["mlp_dim"], **extra,
        )  # fmt: skip
    else:
        config_class = (
            transformers.ElectraConfig if name.startswith("electra") else transformers.BertConfig
        )
        extra = {"embedding_size": f["embedding_size"]} if name.startswith("electra") else {}
        config = config_class(
            vocab_size=30522, hidden_size=f["emb_dim"], num_hidden_layers=f["num_layers"],
            num_attention_heads=f["num_heads"], intermediate_size=f["mlp_dim"], **extra,
        )  # fmt: skip
    with torch.device("meta"):
        model = getattr(transformers, PRESETS[name].counted_class)(config)
    total = sum(p.numel() for p in model.parameters())
    if not f.get("tie_word_embeddings", True) and model.lm_head.weight is model.shared.weight:
        total += model.lm_head.weight.numel()  # tied until an untied checkpoint is loaded
    assert total == PRESETS[name].num_params
