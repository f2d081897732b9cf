"""RoPE scaled to longer sequences, as transformers does it, in each spelling of a config.json."""

import config_sweep
import numpy as np
import parity
import pytest

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

LONG = np.random.default_rng(1).integers(5, 88, (2, 24)).astype(np.int32)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [2.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": 16,
}  # fmt: skip
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "linear, older": {"type": "linear", "factor": 4.0},
    "dynamic, short": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": YARN,
    "yarn, an attention factor": {**YARN, "attention_factor": 0.5},
    "yarn, mscale": {**YARN, "mscale": 2.0, "mscale_all_dim": 0.5},
    "yarn, betas": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
    "yarn, the ratio": {**YARN, "factor": None},
    "llama3": LLAMA3,
    "llama3, without an original length": {
        k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"
    },
    "longrope, long": LONGROPE,
    "longrope, short": {**LONGROPE, "original_max_position_embeddings": 64},
    "longrope, a factor": {**LONGROPE, "factor": 3.0},
    "longrope, an attention factor": {**LONGROPE, "attention_factor": 0.7},
}
BASE = {**config_sweep.LLAMA, "hidden_size": 32, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    transformers.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp("llama")
    return config_sweep.Directory.make(folder, "llama", ("LlamaForCausalLM", BASE))


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_a_scaling_of_llama(name, key, llama):
    config = {**llama.config, "rope_theta": 100.0}
    config.pop("rope_parameters")
    config[key] = SCALINGS[name]
    assert llama.outcome(key, config, LONG) == "equal"


def test_dynamic_scaling_grows_with_the_text(llama, tmp_path):
    base = BASE | {"max_position_embeddings": 16}
    directory = config_sweep.Directory.make(tmp_path, "llama", ("LlamaForCausalLM", base))
    config = {**directory.config, "rope_parameters": {"rope_type": "dynamic", "factor": 3.0}}
    assert directory.outcome("rope_parameters", config, LONG) == "equal"


OTHERS = {
    "gpt_neox": ("GPTNeoXForCausalLM", {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0,
                                        "partial_rotary_factor": 0.5}),
    "gpt_neox, older": ("GPTNeoXForCausalLM", None),
    "phi3": ("Phi3ForCausalLM", LONGROPE | {"original_max_position_embeddings": 4096}),
    "phi3, older": ("Phi3ForCausalLM", {**LONGROPE, "rope_type": "su"}),
    "mistral": ("MistralForCausalLM", YARN),
    "qwen2": ("Qwen2ForCausalLM", YARN),
    "starcoder2": ("Starcoder2ForCausalLM", {"rope_type": "dynamic", "factor": 2.0}),
    "olmo2": ("Olmo2ForCausalLM", LLAMA3),
    "gemma": ("GemmaForCausalLM", {"rope_type": "linear", "factor": 2.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_families(name, tmp_path):
    model_type = name.partition(",")[0]
    directory = config_sweep.Directory.make(tmp_path, model_type, (OTHERS[name][0], BASE))
    config = {**directory.config, "rope_parameters": OTHERS[name][1]}
    if name == "gpt_neox, older":
        config |= {"rotary_pct": 0.5, "rotary_emb_base": 99}
    if name == "phi3, older":
        config["original_max_position_embeddings"] = 16
    assert directory.outcome("rope_parameters", config, LONG) == "equal"


def test_gemma3_stretches_its_global_layers(tmp_path):
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    base = {**BASE, "num_hidden_layers": 3, "sliding_window": 4, "query_pre_attn_scalar": 8,
            "head_dim": 8, "layer_types": types}  # fmt: skip
    directory = config_sweep.Directory.make(tmp_path, "gemma3_text", ("Gemma3ForCausalLM", base))
    config = directory.config
    config["rope_parameters"]["full_attention"] = {"rope_type": "linear", "factor": 8.0}
    assert directory.outcome("rope_parameters", config, LONG) == "equal"
    config["rope_parameters"]["sliding_attention"] = {"rope_type": "linear", "factor": 8.0}
    assert directory.outcome("rope_parameters", config, LONG) == "refused"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"rope_type": "linear"}, "rope_parameters.factor"),
        ({"rope_type": "linear", "factor": 2.0, "beta": 1.0}, "rope_parameters.beta"),
        ({"rope_type": "linear", "type": "yarn", "factor": 2.0}, "rope_type"),
        ({"rope_type": "llama3", "factor": 2.0}, "low_freq_factor"),
        ({"rope_type": "linear", "factor": "two"}, "factor='two'"),
        ({"rope_type": "proportional"}, "proportional"),
        ({"rope_type": "default", "rope_theta": 7.0}, "rope_theta"),
        ({**LONGROPE, "short_factor": [1.0]}, "rope_short_factors"),
        ("linear", "expected an object"),
    ],
)
def test_what_is_not_read_is_refused(found, message, llama):
    config = {**llama.config, "rope_parameters": found, "rope_theta": 9.0}
    assert llama.outcome(message.rpartition(".")[2], config).startswith("refused")
