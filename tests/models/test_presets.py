"""Published networks, parameter for parameter, by shapes alone: nothing is allocated.
Ours pads the vocabulary to a multiple of 128, which is taken off by hand.
"""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import parity
import pytest

import models
from models.presets import PRESETS, ROUNDED, modern, preset, sized


def shapes(config, head=True):
    """{parameter path: its size} of the network of a ModelConfig."""
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    sequence = models.Sequence(tokens=row, segments=row, positions=row)
    decoder = sequence if config.architecture == "encoder_decoder" else None
    model, method = models.build(config), "initialise" if head else "__call__"
    tree = jax.eval_shape(
        lambda s, d: model.init(jax.random.key(0), s, d, method=method)["params"], sequence, decoder
    )
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf.size for path, leaf in flat}


def count(config, head=True):
    """Parameters without the rows that pad the vocabulary; of a network with one layer, which is
    traced in no time, times the layers (that they are alike is tested below)."""
    sizes = shapes(dataclasses.replace(config, layers=1, decoder_layers=0), head)
    total = sum(n * (config.layers if "/layer_0/" in path else 1) for path, n in sizes.items())
    if not config.first_norm:
        total += (config.layers - 1) * config.width * (1 + config.biases)
    padding = config.padded_vocab_size - config.vocab_size
    width = config.size_of_embedding  # of the table; an output bias and an untied kernel as well
    if head:
        width += config.output_bias + (not config.tied_embeddings) * config.width
    return total - padding * width


def built(name):
    return models.ModelConfig(**{"max_length": 1, **preset(name)})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert count(built(name), PRESETS[name].head) == PRESETS[name].parameters


def test_layers_are_alike():
    config = models.ModelConfig(architecture="encoder_decoder", vocab_size=128, max_length=8,
                                **sized("tiny"))  # fmt: skip
    assert sum(shapes(config).values()) == count(config)


# As the papers and their repositories say it, in millions; BERT's and ELECTRA's with a pooler of
# D^2 + D where the release has one.
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


def test_the_numbers_are_those_of_the_papers():
    for name, millions in ROUND.items():
        assert PRESETS[name].parameters == pytest.approx(1e6 * millions, rel=0.055), name
    # With its pooler and without its head BERT-base has 109,482,240, and BERT-Tiny 4,385,920.
    for name, published in (("bert-base", 109_482_240), ("bert-tiny", 4_385_920)):
        width = built(name).width
        assert count(built(name), head=False) + width * (width + 1) == published


def test_gated_untied_and_grouped_query_counts_are_those_of_llama():
    """Llama 2 7B and Llama 3 8B: what no preset has, rotary positions among it."""
    common = {"architecture": "decoder", "layers": 32, "width": 4096, "heads": 32, "max_length": 1,
              "positions": "rotary", "norm": "rmsnorm", "activation": "silu", "gated": True,
              "biases": False, "tied_embeddings": False}  # fmt: skip
    second = models.ModelConfig(**common, mlp_size=11008, vocab_size=32000)
    third = models.ModelConfig(**common, mlp_size=14336, vocab_size=128256, kv_heads=8)
    assert (count(second), count(third)) == (6_738_415_616, 8_030_261_248)


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
@pytest.mark.parametrize("size", ["tiny", "mini", "base", "xl"])
def test_the_modern_recipe_has_as_many_parameters_as_the_classic_one(architecture, size):
    fields = {"architecture": architecture, **sized(size)}
    rest = {"vocab_size": 128, "max_length": 1}
    recipe = models.ModelConfig(**modern(fields), **rest)
    classic = models.ModelConfig(**fields, positions="rotary", norm="rmsnorm", biases=False, **rest)
    step = 3 * ROUNDED * classic.width / 2  # half a multiple, in each MLP
    mlps = classic.layers * (2 if architecture == "encoder_decoder" else 1)
    scales = 2 * mlps * classic.size_of_head * (1.5 if architecture == "encoder_decoder" else 1)
    assert abs(count(recipe) - count(classic)) <= mlps * step + scales
    assert count(recipe) == pytest.approx(count(classic), rel=0.02)
    assert recipe.heads % recipe.kv_heads == 0 and recipe.mlp_size % ROUNDED == 0
    assert recipe.qk_norm and recipe.gated and not recipe.biases and recipe.norm == "rmsnorm"


def test_a_name_that_is_not_in_a_table_is_refused():
    with pytest.raises(ValueError, match="'nano' is not in the table"):
        sized("nano")
    with pytest.raises(ValueError, match="preset 'bert-huge' is not in the table"):
        preset("bert-huge")
    with pytest.raises(
        ValueError,
        match="'gpt2' is not in the table for architecture encoder: expected one of bert-tiny",
    ):
        preset("gpt2", "encoder")


def test_the_page_names_every_choice_and_every_preset_with_its_shape_and_count():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    unnamed = {f.name for f in dataclasses.fields(models.ModelConfig) if f"`{f.name}`" not in page}
    assert unnamed == set()
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    assert rows.keys() == PRESETS.keys()
    for name, (fields, parameters, counted, source, _) in PRESETS.items():
        layers, width, heads, mlp_size, *rest = rows[name]
        shape = [int(re.match(r"\d+", cell)[0]) for cell in (layers, width, heads, mlp_size)]
        assert shape == [fields[key] for key in ("layers", "width", "heads", "mlp_size")]
        assert rest == [f"{parameters:,}", counted, source]
        for cell, key in ((width, "embedding_size"), (heads, "head_size")):
            extra = re.search(r"\d+\D+(\d+)", cell)
            assert extra is None or int(extra[1]) == fields[key]


@pytest.mark.parity
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_counts_what_transformers_own_model_counts(name):
    """The published configs, built on PyTorch's meta device: shapes without memory."""
    torch, transformers = parity.peers()
    f = preset(name)
    if name.startswith("gpt2"):
        config = transformers.GPT2Config(n_embd=f["width"], n_layer=f["layers"], n_head=f["heads"])
    elif name.startswith("t5"):
        later = "v1.1" in name
        config = transformers.T5Config(
            d_model=f["width"], d_kv=f["head_size"], d_ff=f["mlp_size"], num_layers=f["layers"],
            num_heads=f["heads"], feed_forward_proj="gated-gelu" if later else "relu",
            tie_word_embeddings=not later,
        )  # fmt: skip
    elif name.startswith("bart"):
        config = transformers.BartConfig(
            d_model=f["width"], encoder_layers=f["layers"], decoder_layers=f["layers"],
            encoder_ffn_dim=f["mlp_size"], decoder_ffn_dim=f["mlp_size"],
        )  # fmt: skip
    elif name.startswith("distilbert"):
        config = transformers.DistilBertConfig(dim=f["width"], n_layers=f["layers"])
    elif name.startswith(("roberta", "modernbert")):
        kind = getattr(transformers, PRESETS[name].counted.replace("ForMaskedLM", "Config"))
        given = {"type_vocab_size": 1, "max_position_embeddings": 514} if "rob" in name else {}
        config = kind(
            vocab_size=f["vocab_size"], hidden_size=f["width"], num_hidden_layers=f["layers"],
            num_attention_heads=f["heads"], intermediate_size=f["mlp_size"], **given,
        )  # fmt: skip
    else:
        kind = transformers.ElectraConfig if name.startswith("electra") else transformers.BertConfig
        given = {"embedding_size": f["embedding_size"]} if name.startswith("electra") else {}
        config = kind(
            vocab_size=30522, hidden_size=f["width"], num_hidden_layers=f["layers"],
            num_attention_heads=f["heads"], intermediate_size=f["mlp_size"], **given,
        )  # fmt: skip
    with torch.device("meta"):
        model = getattr(transformers, PRESETS[name].counted)(config)
    total = sum(p.numel() for p in model.parameters())
    if not f.get("tied_embeddings", True) and model.lm_head.weight is model.shared.weight:
        total += model.lm_head.weight.numel()  # tied until a checkpoint comes with its own
    assert total == PRESETS[name].parameters
