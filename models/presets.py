"""Networks by name: sizes, published models parameter for parameter, and the modern recipe.
configs/ and whoever wants BERT-base by name read it; each is a dict of ModelConfig fields.
Tests count every preset against the published number and against transformers' own model.
"""

from typing import NamedTuple

# name: (layers, width, heads, mlp_size); BERT's sizes (Turc et al. 2019, Devlin et al. 2019), and
# GPT-2's largest (Radford et al. 2019).
SIZES = {
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "small": (4, 512, 8, 2048),
    "medium": (8, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "xl": (48, 1600, 25, 6400),
}


def sized(name: str) -> dict:
    """The ModelConfig fields of a size: {layers, width, heads, mlp_size}."""
    if name not in SIZES:
        raise ValueError(f"size {name!r} is not in the table: expected one of {', '.join(SIZES)}")
    return _shape(*SIZES[name])


def _shape(layers, width, heads, mlp_size, **fields):
    return {"layers": layers, "width": width, "heads": heads, "mlp_size": mlp_size, **fields}


class Preset(NamedTuple):
    """A published network. Dropout and initial sizes are the config's own, not the paper's."""

    fields: dict  # of ModelConfig
    parameters: int  # as published; ours are these and the rows that pad the vocabulary
    counted: str  # what the number counts: the class of transformers that has it
    source: str
    # Whether the count holds the output head, which the fields describe in any case (ELECTRA's
    # discriminator has none; what they say is then the generator's).
    head: bool = True


_BERT = {
    "architecture": "encoder",
    "vocab_size": 30522,
    "max_length": 512,
    "token_types": 2,
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "readout_transform": True,
    "output_bias": True,
}
_ROBERTA = {
    **_BERT,
    "vocab_size": 50265,
    "position_offset": 2,
    "token_types": 1,
    "norm_epsilon": 1e-5,
}
_MODERNBERT = {
    "architecture": "encoder",
    "vocab_size": 50368,
    "max_length": 8192,
    "positions": "rotary",
    "rotary_base": 160_000.0,
    "local_rotary_base": 10_000.0,
    "window": 65,
    "global_every": 3,
    "norm_epsilon": 1e-5,
    "embedding_norm": True,
    "first_norm": False,
    "gated": True,
    "biases": False,
    "readout_transform": True,
    "output_bias": True,
}
_GPT2 = {
    "architecture": "decoder",
    "vocab_size": 50257,
    "max_length": 1024,
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-5,
}
_T5 = {
    "architecture": "encoder_decoder",
    "vocab_size": 32128,
    "positions": "relative",
    "norm": "rmsnorm",
    "biases": False,
    "attention_scale": False,
    "head_size": 64,
}
_BART = {
    "architecture": "encoder_decoder",
    "vocab_size": 50265,
    "max_length": 1024,
    "position_offset": 2,
    "norm_position": "post",
    "norm_epsilon": 1e-5,
    "embedding_norm": True,
    "separate_embeddings": True,
}
_T5_FIRST = {**_T5, "activation": "relu", "readout_scale": True}
_T5_LATER = {**_T5, "activation": "gelu_tanh", "gated": True, "tied_embeddings": False}

_MASKED, _TYPED = "BertForMaskedLM", "T5ForConditionalGeneration"
_TURC, _DEVLIN = "Turc et al. 2019, table 1", "Devlin et al. 2019, section 3"
_RADFORD, _RAFFEL = "Radford et al. 2019, table 2", "Raffel et al. 2020, section 3.7"
_SHAZEER = "Raffel et al. 2020, released as T5.1.1 (after Shazeer 2020)"
_CLARK = "Clark et al. 2020, table 6"
_LIU, _WARNER = "Liu et al. 2019, section 4", "Warner et al. 2024, table 4"
_LEWIS = "Lewis et al. 2020, section 2.1"
_ROBERTA_LM, _MODERN_LM = "RobertaForMaskedLM", "ModernBertForMaskedLM"
_BART_LM = "BartForConditionalGeneration"

PRESETS = {
    "bert-tiny": Preset({**_BERT, **sized("tiny")}, 4_416_698, _MASKED, _TURC),
    "bert-mini": Preset({**_BERT, **sized("mini")}, 11_201_594, _MASKED, _TURC),
    "bert-small": Preset({**_BERT, **sized("small")}, 28_795_194, _MASKED, _TURC),
    "bert-medium": Preset({**_BERT, **sized("medium")}, 41_404_730, _MASKED, _TURC),
    "bert-base": Preset({**_BERT, **sized("base")}, 109_514_298, _MASKED, _DEVLIN),
    "bert-large": Preset({**_BERT, **sized("large")}, 335_174_458, _MASKED, _DEVLIN),
    "electra-small": Preset(
        {**_BERT, **_shape(12, 256, 4, 1024, embedding_size=128)},
        13_483_008, "ElectraModel", _CLARK, head=False,
    ),
    "electra-small-generator": Preset(
        {**_BERT, **_shape(12, 64, 1, 256, embedding_size=128)},
        4_620_026, "ElectraForMaskedLM", f"{_CLARK}: a quarter of the discriminator",
    ),
    "electra-small++-generator": Preset(
        {**_BERT, **_shape(12, 256, 4, 1024, embedding_size=128)},
        13_546_682, "ElectraForMaskedLM", "as released: as wide as its discriminator",
    ),
    "electra-base": Preset(
        {**_BERT, **sized("base"), "embedding_size": 768},
        108_891_648, "ElectraModel", _CLARK, head=False,
    ),
    "electra-base-generator": Preset(
        {**_BERT, **_shape(12, 256, 4, 1024, embedding_size=768)},
        33_740_602, "ElectraForMaskedLM", f"{_CLARK}: a third of the discriminator",
    ),
    "roberta-base": Preset({**_ROBERTA, **sized("base")}, 124_697_433, _ROBERTA_LM, _LIU),
    "roberta-large": Preset({**_ROBERTA, **sized("large")}, 355_412_057, _ROBERTA_LM, _LIU),
    "distilbert-base": Preset(
        {**_BERT, "token_types": 0, **_shape(6, 768, 12, 3072)},
        66_985_530, "DistilBertForMaskedLM", "Sanh et al. 2019, section 3",
    ),
    "modernbert-base": Preset(
        {**_MODERNBERT, **_shape(22, 768, 12, 1152)}, 149_655_232, _MODERN_LM, _WARNER
    ),
    "modernbert-large": Preset(
        {**_MODERNBERT, **_shape(28, 1024, 16, 2624)}, 395_881_664, _MODERN_LM, _WARNER
    ),
    "gpt2": Preset({**_GPT2, **sized("base")}, 124_439_808, "GPT2LMHeadModel", _RADFORD),
    "gpt2-medium": Preset({**_GPT2, **sized("large")}, 354_823_168, "GPT2LMHeadModel", _RADFORD),
    "gpt2-large": Preset(
        {**_GPT2, **_shape(36, 1280, 20, 5120)}, 774_030_080, "GPT2LMHeadModel", _RADFORD
    ),
    "gpt2-xl": Preset({**_GPT2, **sized("xl")}, 1_557_611_200, "GPT2LMHeadModel", _RADFORD),
    "t5-small": Preset({**_T5_FIRST, **_shape(6, 512, 8, 2048)}, 60_506_624, _TYPED, _RAFFEL),
    "t5-base": Preset({**_T5_FIRST, **sized("base")}, 222_903_552, _TYPED, _RAFFEL),
    "t5-large": Preset({**_T5_FIRST, **sized("large")}, 737_668_096, _TYPED, _RAFFEL),
    "t5-3b": Preset(
        {**_T5_FIRST, **_shape(24, 1024, 32, 16384, head_size=128)}, 2_851_598_336, _TYPED, _RAFFEL
    ),
    "t5-11b": Preset(
        {**_T5_FIRST, **_shape(24, 1024, 128, 65536, head_size=128)},
        11_307_321_344, _TYPED, _RAFFEL,
    ),
    "t5-v1.1-small": Preset({**_T5_LATER, **_shape(8, 512, 6, 1024)}, 76_961_152, _TYPED, _SHAZEER),
    "t5-v1.1-base": Preset({**_T5_LATER, **_shape(12, 768, 12, 2048)}, 247_577_856, _TYPED, _SHAZEER),
    "t5-v1.1-large": Preset(
        {**_T5_LATER, **_shape(24, 1024, 16, 2816)}, 783_150_080, _TYPED, _SHAZEER
    ),
    "t5-v1.1-xl": Preset(
        {**_T5_LATER, **_shape(24, 2048, 32, 5120)}, 2_849_757_184, _TYPED, _SHAZEER
    ),
    "t5-v1.1-xxl": Preset(
        {**_T5_LATER, **_shape(24, 4096, 64, 10240)}, 11_135_332_352, _TYPED, _SHAZEER
    ),
    "bart-base": Preset({**_BART, **_shape(6, 768, 12, 3072)}, 139_420_416, _BART_LM, _LEWIS),
    "bart-large": Preset({**_BART, **_shape(12, 1024, 16, 4096)}, 406_291_456, _BART_LM, _LEWIS),
}  # fmt: skip


def preset(name: str, architecture: str = "") -> dict:
    """The ModelConfig fields of a published network, which has to be of the architecture if given."""
    fitting = [n for n, p in PRESETS.items() if architecture in ("", p.fields["architecture"])]
    if name not in fitting:
        kind = f" for architecture {architecture}" if architecture else ""
        raise ValueError(
            f"preset {name!r} is not in the table{kind}: expected one of {', '.join(fitting)}"
        )
    return dict(PRESETS[name].fields)


ROUNDED = 32  # the modern recipe's mlp_size is a multiple of it


def modern(fields: dict) -> dict:
    """`fields` {architecture, layers, width, heads, mlp_size, [decoder_layers]} by the recipe of
    decoders since Llama (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, no biases; with
    one key head for four query heads (Ainslie et al. 2023) and QK-norm (Henry et al. 2020).

    mlp_size becomes what keeps the kernels of the stacks as many as they were: two thirds for the
    third kernel of a gated MLP (Shazeer 2020: 8/3 D), and what grouped-query attention gives up.
    """
    width, heads = fields["width"], fields["heads"]
    groups = max(g for g in range(1, max(heads // 4, 1) + 1) if heads % g == 0)
    layers = fields["layers"]
    attentions = mlps = layers
    if fields["architecture"] == "encoder_decoder":
        decoder_layers = fields.get("decoder_layers") or layers
        attentions, mlps = layers + 2 * decoder_layers, layers + decoder_layers
    saved = attentions * 2 * width * (width - width // heads * groups)
    mlp_size = (mlps * 2 * width * fields["mlp_size"] + saved) / (mlps * 3 * width)
    return {
        **fields,
        "mlp_size": max(1, round(mlp_size / ROUNDED)) * ROUNDED,
        "kv_heads": groups,
        "gated": True,
        "activation": "silu",
        "norm": "rmsnorm",
        "positions": "rotary",
        "biases": False,
        "output_bias": False,
        "qk_norm": True,
    }
