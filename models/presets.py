"""Models by name, as dicts of ModelConfig fields: sizes, published models, and recipes.
configs/ reads them, for arguments such as size=base or preset=bert-base.
Tests compare the number of parameters of every preset with the published one and with transformers.
"""

from typing import NamedTuple

# name: (num_layers, emb_dim, num_heads, mlp_dim). tiny to large: BERT's sizes (Turc et al. 2019,
# Devlin et al. 2019); xl: GPT-2 XL (Radford et al. 2019).
SIZES = {
    "tiny": (2, 128, 2, 512),
    "mini": (4, 256, 4, 1024),
    "small": (4, 512, 8, 2048),
    "medium": (8, 512, 8, 2048),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
    "xl": (48, 1600, 25, 6400),
}


def size_fields(name: str) -> dict:
    """The ModelConfig fields of a size: {num_layers, emb_dim, num_heads, mlp_dim}."""
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r}: expected one of {', '.join(SIZES)}")
    return _shape(*SIZES[name])


def _shape(num_layers, emb_dim, num_heads, mlp_dim, **fields):
    shape = {"num_layers": num_layers, "emb_dim": emb_dim, "num_heads": num_heads}
    return {**shape, "mlp_dim": mlp_dim, **fields}


class Preset(NamedTuple):
    """A published model. Dropout and init_std are the defaults of ModelConfig, not the paper's values."""

    fields: dict  # {ModelConfig field: value}
    # Of `counted_class` (papers give rounded numbers), without the rows that pad our vocabulary.
    num_params: int
    counted_class: str  # the class in transformers that has num_params parameters
    reference: str  # the publication
    # Whether num_params includes the LM head. An ELECTRA discriminator has none: the LM head that its
    # fields describe is the generator's.
    counts_head: bool = True


_BERT = {
    "architecture": "encoder",
    "vocab_size": 30522,
    "max_length": 512,
    "num_token_types": 2,
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "lm_head_transform": True,
    "lm_head_bias": True,
}
_ROBERTA = _BERT | {
    "vocab_size": 50265,
    "position_offset": 2,
    "num_token_types": 1,
    "norm_epsilon": 1e-5,
}
_MODERNBERT = {
    "architecture": "encoder",
    "vocab_size": 50368,
    "max_length": 8192,
    "positions": "rope",
    "rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "sliding_window": 65,
    "global_attn_every_n_layers": 3,
    "norm_epsilon": 1e-5,
    "embedding_norm": True,
    "skip_first_prenorm": True,
    "gated_mlp": True,
    "use_bias": False,
    "lm_head_transform": True,
    "lm_head_bias": True,
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
    "use_bias": False,
    "scale_attention": False,
    "head_dim": 64,
}
_T5_V1_0 = _T5 | {"activation": "relu", "scale_logits_by_embedding_size": True}
_T5_V1_1 = _T5 | {"activation": "gelu_tanh", "gated_mlp": True, "tie_word_embeddings": False}
_BART = {
    "architecture": "encoder_decoder",
    "vocab_size": 50265,
    "max_length": 1024,
    "position_offset": 2,
    "norm_position": "post",
    "norm_epsilon": 1e-5,
    "embedding_norm": True,
    "separate_decoder_embeddings": True,
}

_BERT_LM, _ROBERTA_LM, _MODERNBERT_LM = (
    "BertForMaskedLM",
    "RobertaForMaskedLM",
    "ModernBertForMaskedLM",
)
_ELECTRA, _ELECTRA_LM, _GPT2_LM = "ElectraModel", "ElectraForMaskedLM", "GPT2LMHeadModel"
_T5_LM, _BART_LM = "T5ForConditionalGeneration", "BartForConditionalGeneration"
_TURC, _DEVLIN = "Turc et al. 2019, table 1", "Devlin et al. 2019, section 3"
_CLARK, _LIU = "Clark et al. 2020, table 6", "Liu et al. 2019, section 4"
_SANH, _WARNER = "Sanh et al. 2019, section 3", "Warner et al. 2024, table 4"
_RADFORD, _RAFFEL = "Radford et al. 2019, table 2", "Raffel et al. 2020, section 3.7"
_SHAZEER = "Raffel et al. 2020, released as T5.1.1 (after Shazeer 2020)"
_LEWIS = "Lewis et al. 2020, section 2.1"

PRESETS = {
    "bert-tiny": Preset(_BERT | size_fields("tiny"), 4_416_698, _BERT_LM, _TURC),
    "bert-mini": Preset(_BERT | size_fields("mini"), 11_201_594, _BERT_LM, _TURC),
    "bert-small": Preset(_BERT | size_fields("small"), 28_795_194, _BERT_LM, _TURC),
    "bert-medium": Preset(_BERT | size_fields("medium"), 41_404_730, _BERT_LM, _TURC),
    "bert-base": Preset(_BERT | size_fields("base"), 109_514_298, _BERT_LM, _DEVLIN),
    "bert-large": Preset(_BERT | size_fields("large"), 335_174_458, _BERT_LM, _DEVLIN),
    "electra-small": Preset(
        _BERT | _shape(12, 256, 4, 1024, embedding_size=128), 13_483_008, _ELECTRA, _CLARK, False
    ),
    "electra-small-generator": Preset(
        _BERT | _shape(12, 64, 1, 256, embedding_size=128),
        4_620_026, _ELECTRA_LM, f"{_CLARK}: a quarter of the discriminator",
    ),
    "electra-small++-generator": Preset(
        _BERT | _shape(12, 256, 4, 1024, embedding_size=128),
        13_546_682, _ELECTRA_LM, "as released: the size of its discriminator",
    ),
    "electra-base": Preset(
        _BERT | size_fields("base") | {"embedding_size": 768}, 108_891_648, _ELECTRA, _CLARK, False
    ),
    "electra-base-generator": Preset(
        _BERT | _shape(12, 256, 4, 1024, embedding_size=768),
        33_740_602, _ELECTRA_LM, f"{_CLARK}: a third of the discriminator",
    ),
    "roberta-base": Preset(_ROBERTA | size_fields("base"), 124_697_433, _ROBERTA_LM, _LIU),
    "roberta-large": Preset(_ROBERTA | size_fields("large"), 355_412_057, _ROBERTA_LM, _LIU),
    "distilbert-base": Preset(
        _BERT | _shape(6, 768, 12, 3072, num_token_types=0),
        66_985_530, "DistilBertForMaskedLM", _SANH,
    ),
    "modernbert-base": Preset(
        _MODERNBERT | _shape(22, 768, 12, 1152), 149_655_232, _MODERNBERT_LM, _WARNER
    ),
    "modernbert-large": Preset(
        _MODERNBERT | _shape(28, 1024, 16, 2624), 395_881_664, _MODERNBERT_LM, _WARNER
    ),
    "gpt2": Preset(_GPT2 | size_fields("base"), 124_439_808, _GPT2_LM, _RADFORD),
    "gpt2-medium": Preset(_GPT2 | size_fields("large"), 354_823_168, _GPT2_LM, _RADFORD),
    "gpt2-large": Preset(_GPT2 | _shape(36, 1280, 20, 5120), 774_030_080, _GPT2_LM, _RADFORD),
    "gpt2-xl": Preset(_GPT2 | size_fields("xl"), 1_557_611_200, _GPT2_LM, _RADFORD),
    "t5-small": Preset(_T5_V1_0 | _shape(6, 512, 8, 2048), 60_506_624, _T5_LM, _RAFFEL),
    "t5-base": Preset(_T5_V1_0 | size_fields("base"), 222_903_552, _T5_LM, _RAFFEL),
    "t5-large": Preset(_T5_V1_0 | size_fields("large"), 737_668_096, _T5_LM, _RAFFEL),
    "t5-3b": Preset(
        _T5_V1_0 | _shape(24, 1024, 32, 16384, head_dim=128), 2_851_598_336, _T5_LM, _RAFFEL
    ),
    "t5-11b": Preset(
        _T5_V1_0 | _shape(24, 1024, 128, 65536, head_dim=128), 11_307_321_344, _T5_LM, _RAFFEL
    ),
    "t5-v1.1-small": Preset(_T5_V1_1 | _shape(8, 512, 6, 1024), 76_961_152, _T5_LM, _SHAZEER),
    "t5-v1.1-base": Preset(_T5_V1_1 | _shape(12, 768, 12, 2048), 247_577_856, _T5_LM, _SHAZEER),
    "t5-v1.1-large": Preset(_T5_V1_1 | _shape(24, 1024, 16, 2816), 783_150_080, _T5_LM, _SHAZEER),
    "t5-v1.1-xl": Preset(_T5_V1_1 | _shape(24, 2048, 32, 5120), 2_849_757_184, _T5_LM, _SHAZEER),
    "t5-v1.1-xxl": Preset(_T5_V1_1 | _shape(24, 4096, 64, 10240), 11_135_332_352, _T5_LM, _SHAZEER),
    "bart-base": Preset(_BART | _shape(6, 768, 12, 3072), 139_420_416, _BART_LM, _LEWIS),
    "bart-large": Preset(_BART | _shape(12, 1024, 16, 4096), 406_291_456, _BART_LM, _LEWIS),
}  # fmt: skip


def preset(name: str, architecture: str = "") -> dict:
    """The ModelConfig fields of a published model.

    Raises ValueError for an unknown name, or if `architecture` is given and the model has another.
    """
    known = [n for n, p in PRESETS.items() if architecture in ("", p.fields["architecture"])]
    if name not in known:
        where = f" for architecture {architecture}" if architecture else ""
        raise ValueError(f"unknown preset {name!r}{where}: expected one of {', '.join(known)}")
    return dict(PRESETS[name].fields)


MLP_DIM_MULTIPLE = 32  # mlp_dim of a recipe with a gated MLP is a multiple of this

_CLASSIC = {"positions": "rope", "lm_head_bias": True}
_MODERN = {
    "positions": "rope", "norm": "rmsnorm", "use_bias": False, "gated_mlp": True,
    "activation": "silu", "qk_norm": True,
}  # fmt: skip
_MODERNBERT_LAYERS = {
    "positions": "rope", "norm_epsilon": 1e-5, "use_bias": False, "gated_mlp": True,
    "embedding_norm": True, "skip_first_prenorm": True, "lm_head_transform": True,
    "lm_head_bias": True,
}  # fmt: skip
_T5_LAYERS = {
    "positions": "relative", "norm": "rmsnorm", "use_bias": False, "gated_mlp": True,
    "activation": "gelu_tanh", "scale_attention": False, "tie_word_embeddings": False,
}  # fmt: skip
# name: {architecture: the ModelConfig fields that it adds to a size}.
RECIPES = {
    "classic": {"encoder": _CLASSIC, "decoder": _CLASSIC, "encoder_decoder": _CLASSIC},
    "modern": {"encoder": _MODERN, "decoder": _MODERN, "encoder_decoder": _MODERN},
    "modernbert": {"encoder": _MODERNBERT_LAYERS},
    "t5": {"encoder_decoder": _T5_LAYERS},
}


def recipe(name: str, fields: dict) -> dict:
    """Adds the fields of a recipe to `fields` {architecture, num_layers, emb_dim, num_heads, mlp_dim,
    [num_decoder_layers]}. Raises ValueError for a recipe not defined for the architecture.

    classic: GPT-2's blocks (Radford et al. 2019) with RoPE and an output bias; its classes in
    transformers are ESM (encoder) and StarCoder2 (decoder). modern: the blocks of decoders since
    Llama (Touvron et al. 2023), RMSNorm, RoPE, SwiGLU and no biases, with one key head per four
    query heads (two in `tiny`, five in `xl`; Ainslie et al. 2023) and QK-norm (Henry et al. 2020).
    modernbert: ModernBERT (Warner et al. 2024) with global attention in all layers. t5: T5 v1.1
    (Shazeer 2020).

    A gated MLP has a third kernel, and grouped-query attention has smaller ones: mlp_dim is changed so
    that the stacks' kernels keep their number of parameters (Shazeer 2020: 8/3 D).
    """
    known = [n for n, each in RECIPES.items() if fields["architecture"] in each]
    if name not in known:
        raise ValueError(
            f"unknown recipe {name!r} for architecture {fields['architecture']}: expected one of "
            f"{', '.join(known)}"
        )
    fields = {**fields, **RECIPES[name][fields["architecture"]]}
    if not fields.get("gated_mlp"):
        return fields
    emb_dim, num_heads, num_layers = fields["emb_dim"], fields["num_heads"], fields["num_layers"]
    num_kv_heads = num_heads
    if name == "modern":
        num_kv_heads = max(g for g in range(1, max(num_heads // 4, 1) + 1) if num_heads % g == 0)
        fields["num_kv_heads"] = num_kv_heads
    num_attentions = num_mlps = num_layers
    if fields["architecture"] == "encoder_decoder":
        num_decoder_layers = fields.get("num_decoder_layers") or num_layers
        num_attentions += 2 * num_decoder_layers
        num_mlps += num_decoder_layers
    # Parameters that grouped-query attention saves in the key and value kernels.
    saved = num_attentions * 2 * emb_dim * (emb_dim - emb_dim // num_heads * num_kv_heads)
    mlp_dim = (num_mlps * 2 * emb_dim * fields["mlp_dim"] + saved) / (num_mlps * 3 * emb_dim)
    fields["mlp_dim"] = max(1, round(mlp_dim / MLP_DIM_MULTIPLE)) * MLP_DIM_MULTIPLE
    return fields
