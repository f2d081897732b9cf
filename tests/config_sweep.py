"""Perturbations of a config.json, generated from transformers' config classes, and what becomes of each.

For test_parity_config.py. A family has one tiny directory; each case rewrites its config.json alone.
"""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import parity
import pytest

from huggingface import convert, param_shapes, published
from huggingface.families import FAMILIES
from training import param_rules
from training.config import ConfigError

torch, transformers = parity.peers()
from safetensors.torch import load_file  # noqa: E402
from transformers.initialization import no_init_weights  # noqa: E402

IDS = {"pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4}
WIDE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
LLAMA = {**WIDE, **IDS, "num_key_value_heads": 2}
T5 = {
    "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 4, "decoder_start_token_id": 0, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
}  # fmt: skip
BART = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
}  # fmt: skip
MODERN = {**WIDE, "num_hidden_layers": 4, "local_attention": 4} | {
    f"{name}_token_id": i for i, name in enumerate(("pad", "bos", "eos", "cls", "sep"))
}
# model_type: (class of transformers, values of its config)
BASES = {
    "bert": ("BertForMaskedLM", WIDE),
    "roberta": ("RobertaForMaskedLM", WIDE),
    "electra": ("ElectraForMaskedLM", {**WIDE, "embedding_size": 16}),
    "esm": (
        "EsmForMaskedLM",
        {**WIDE, **IDS, "position_embedding_type": "rotary", "mask_token_id": 1},
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 32, "max_position_embeddings": 32},
    ),
    "modernbert": ("ModernBertForMaskedLM", MODERN),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32} | IDS),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}),
    "starcoder2": ("Starcoder2ForCausalLM", LLAMA),
    "t5": ("T5ForConditionalGeneration", T5),
    "xlm-roberta": ("XLMRobertaForMaskedLM", WIDE),
    "mt5": ("MT5ForConditionalGeneration", T5),
    "gpt_neox": ("GPTNeoXForCausalLM", {**WIDE, **IDS, "hidden_size": 32}),
    "olmo2": ("Olmo2ForCausalLM", LLAMA),
    "gemma": ("GemmaForCausalLM", {**LLAMA, "head_dim": 8}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            **LLAMA,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "sliding_window": 4,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.5,
        },
    ),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {
            **LLAMA,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "sliding_window": 4,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {**LLAMA, "hidden_size": 32}),
    "bart": ("BartForConditionalGeneration", BART),
}
# Keys of older files beside those of a config class.
OLDER = ("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings",
         "position_embedding_type", "per_layer_config", "num_local_experts", "torch_dtype",
         "scale_decoder_outputs", "dense_act_fn", "is_gated_act", "sliding_window", "layer_types",
         "rotary_pct", "rotary_emb_base", "quantization_config", "num_labels")  # fmt: skip
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_new")
OTHER_VALUES = {
    "feed_forward_proj": ("gated-gelu", "gelu", "gated-silu"),
    "classifier_pooling": ("mean",),
    "problem_type": ("regression",),
    "rope_type": ("linear", "dynamic", "yarn", "llama3", "longrope", "unknown"),
    "torch_dtype": ("float16",),
    "position_embedding_type": ("relative_key",),
    "rope_scaling": ({"type": "linear", "factor": 4.0}, {"rope_type": "dynamic", "factor": 2.0}),
    "quantization_config": ({"quant_method": "bitsandbytes"},),
    "per_layer_config": ({"0": {"hidden_size": 8}},),
    "layer_types": (["full_attention"] * 2, ["sliding_attention", "full_attention"] * 2),
}
# Keys of the base class, which are tried in one family.
RUN_KEYS = ("output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward",
            "_name_or_path", "dtype", "torch_dtype", "use_cache")  # fmt: skip
ABSENT = object()
# Fields that change no logits.
FREE = {"init_std": 0.0, "dropout_rate": 0.0, "attention_dropout_rate": 0.0,
        "embedding_dropout_rate": -1.0}  # fmt: skip


def values_of(key, value):
    """Other values for a key that has this one."""
    name = key.rpartition(".")[2]
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if name.endswith(("activation", "act_fn", "hidden_act")) or name == "activation_function":
        return tuple(each for each in ACTIVATIONS if each != value)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, 2 * value or 2)
    if isinstance(value, float):
        return (2 * value + 0.25,)
    if isinstance(value, str):
        return ("other",)
    if isinstance(value, list):
        return (value[:-1], [*value[1:], value[0]]) if value else (["x"],)
    return (3, True, 0.5)


def nested(config, prefix=""):
    """{'outer.inner': value} of the objects in a config."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            found |= {f"{prefix}{key}.{name}": inner for name, inner in value.items()}
            found |= nested(value, f"{prefix}{key}.")
            found[f"{prefix}{key}.another_key"] = 2.0
    return found


def changed(config, key, value):
    """A copy with one key set or deleted (ABSENT)."""
    config = json.loads(json.dumps(config))
    *outer, name = key.split(".")
    inner = config
    for each in outer:
        inner = inner[each]
    if value is ABSENT:
        inner.pop(name, None)
    else:
        inner[name] = value
    return config


@dataclasses.dataclass
class Directory:
    """One family's directory, with its config complete."""

    folder: object
    peer_class: type
    config: dict
    tied: bool
    known: dict = dataclasses.field(default_factory=dict)  # logits of transformers, by config

    @classmethod
    def make(cls, folder, model_type, base=None):
        name, values = base or BASES[model_type]
        peer_class = getattr(transformers, name)
        config = peer_class.config_class(vocab_size=parity.VOCAB_SIZE, **values)
        scale = 0.1 if model_type in ("t5", "mt5") else 0.3
        parity.randomize(peer_class(config), scale).save_pretrained(folder)
        parity.write_tokenizer(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        written = config.to_dict() | {"architectures": [name], "dtype": "float32"}
        written.pop("transformers_version")
        written = json.loads(json.dumps(written))
        written = {key: value for key, value in written.items() if value is not None}
        return cls(folder, peer_class, written, config.tie_word_embeddings)

    def cases(self):
        """[(key, config.json)]: each key with other values, without value, and absent."""
        every = self.peer_class.config_class(vocab_size=parity.VOCAB_SIZE).to_dict()
        found, aliases = [], self.peer_class.config_class.attribute_map
        for key in dict.fromkeys([*every, *self.config, *OLDER]):
            if key in ("architectures", "transformers_version", "model_type"):
                continue
            if key in RUN_KEYS and self.config["model_type"] != "bert":
                continue
            value = self.config.get(key)
            others = [each for each in values_of(key, value) if each != value]
            if isinstance(value, dict):
                others = []
            found += [(key, changed(self.config, key, each)) for each in (*others, None, ABSENT)]
        for key, value in nested(self.config).items():
            others = (*values_of(key, value), None, ABSENT)
            others = (value,) if key.endswith("another_key") else others
            found += [
                (key, changed(self.config, key, each)) for each in others if value is not each
            ]
        for alias, key in aliases.items():
            value = self.config[key]
            without = changed(self.config, key, ABSENT)
            found += [(alias, changed(without, alias, each)) for each in (value, 2 * value)]
            found += [(alias, changed(self.config, alias, each)) for each in (value, 2 * value)]
        return found

    def outcome(self, key, config, tokens=parity.TOKENS):
        """'equal', 'refused', 'refused by both', or what is wrong."""
        (self.folder / "config.json").write_text(json.dumps(config))
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(param_shapes, "of_model", _shapes)
                contents = convert.read_hf(self.folder)
        except ConfigError as error:
            assert len(str(error)) < 700 and "\n" not in str(error)
            name = key.rpartition(".")[2]
            named = re.search(rf"\b{name}\b", str(error)) or key.partition(".")[0] in str(error)
            return "refused" if named else f"refused without the key: {error}"
        try:
            expected = self.expected(tokens)
        except Exception as error:  # noqa: BLE001  of any kind: what it cannot load we may refuse
            return f"transformers refuses: {type(error).__name__} {str(error)[:100]}"
        difference = np.abs(native_logits(contents, tokens) - expected).max()
        if not difference < 1e-4 * np.abs(expected).max():
            return f"differs by {difference / np.abs(expected).max():.1e}"
        return self.returned(contents, config, expected, tokens) or "equal"

    def expected(self, tokens):
        config = self.peer_class.config_class.from_pretrained(self.folder)
        config.dtype = None  # the file's rounding is not what is compared
        config._attn_implementation = "eager"
        key = json.dumps([json.loads(config.to_json_string(use_diff=False)), tokens.shape])
        if key not in self.known:
            self.known[key] = self._expected(config, tokens)
        return self.known[key]

    def _expected(self, config, tokens):
        # What from_pretrained ties depends on the tensors, and it renames those of GPT-NeoX and ESM.
        if config.tie_word_embeddings != self.tied or config.model_type in ("gpt_neox", "esm"):
            peer = self.peer_class.from_pretrained(self.folder, config=config).eval()
        else:
            with no_init_weights():
                peer = self.peer_class(config).eval()
            state = load_file(self.folder / "model.safetensors")
            problems = peer.load_state_dict(state, strict=False)
            peer.tie_weights()
            assert not problems.unexpected_keys, problems
            tied = getattr(peer, "all_tied_weights_keys", {})
            missing = {name for name in problems.missing_keys if name not in tied}
            assert missing <= {"final_logits_bias"}, missing
        arguments = {"input_ids": torch.from_numpy(tokens).long()}
        if peer.config.is_encoder_decoder:
            arguments["labels"] = torch.from_numpy(parity.TARGETS).long()
        with torch.no_grad():
            return peer(**arguments).logits.numpy()

    def returned(self, contents, config, expected, tokens):
        """'' if an export has every value of `config` as transformers reads it, or what it loses."""
        family = FAMILIES[config["model_type"]]
        written = family.hf_config(contents.model_config)[0]
        written = published.config_of(contents, family, written, {}, False)
        before = self.peer_class.config_class(**config).to_dict()
        after = self.peer_class.config_class(**written).to_dict()
        free = ("architectures", "dtype", "id2label", "label2id", "problem_type", "_name_or_path",
                "torch_dtype", "num_labels", "rope_scaling", "rope_theta", "sliding_window",
                "max_window_layers", "n_positions", "layer_types", "n_inner", "use_sliding_window",
                "local_attention")  # fmt: skip
        if config.get("tie_word_embeddings") != self.tied:  # an export says what the tensors say
            free += ("tie_word_embeddings",)
        lost = {
            name: (value, after.get(name))
            for name, value in before.items()
            if name not in free and value is not None and _plain(value) != _plain(after.get(name))
        }
        if [*lost] == ["rope_parameters"]:  # an export spells out what a file left to be computed
            (self.folder / "config.json").write_text(json.dumps(written | {"dtype": "float32"}))
            if np.abs(self.expected(tokens) - expected).max() < 1e-5 * np.abs(expected).max():
                return ""
        return f"lost on the way back: {lost}" if lost else ""


def _plain(value):
    if isinstance(value, dict):  # transformers fills in what an export spells out
        return {k: _plain(v) for k, v in value.items() if v is not None and k != "type"}
    return (
        {"gelu_new": "gelu_pytorch_tanh", "swish": "silu"}.get(value, value)
        if isinstance(value, str)
        else value
    )


_SHAPES, _LOGITS = {}, {}


def _shapes(family, model, num_classes):
    """param_shapes.of_model, traced once for each shape."""
    free = {"rope_theta": 2.0, "norm_epsilon": 1e-6, "activation": "gelu", **FREE}
    if model.positions != "learned":
        free["max_length"] = 2
    key = (family.model_type, dataclasses.replace(model, **free), num_classes)
    if key not in _SHAPES:
        _SHAPES[key] = OF_MODEL(family, model, num_classes)
    return _SHAPES[key]


OF_MODEL = param_shapes.of_model


def native_logits(contents, tokens):
    """Our logits, computed once for each model and its parameters."""
    model = contents.model_config
    free = dict(FREE)
    if model.positions != "learned" and model.rope_scaling in ("none", "linear"):
        free["max_length"] = 2
    model = dataclasses.replace(model, **free)
    start = contents.tokenizer.special_ids()["start"]
    key = (contents.name, model, start, tokens.shape)
    if key not in _LOGITS:
        flat = {path: jnp.asarray(array.read()) for path, array in contents.arrays.items()}
        native = parity.NativeModel(model, param_rules.unflatten_params(flat), start)
        targets = parity.TARGETS if native.is_encoder_decoder else None
        inputs = native.inputs(tokens, np.ones_like(tokens), targets)
        _LOGITS[key] = np.asarray(native.logits(native.hidden(*inputs)))
    return _LOGITS[key]
