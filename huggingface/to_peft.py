"""to_peft: a run with an adapter as PEFT writes it (adapter_config.json, adapter_model.safetensors).

LoRA, DoRA, IA3, prompts and prefixes. Called by tools/convert.py; names and layouts of tensors are those
of the families' tables (huggingface/families/).
"""

import dataclasses
import pathlib
import re

import numpy as np
import safetensors.numpy

from huggingface.convert import scored_checkpoint, write_hf
from huggingface.export_class import choose_class, task_head
from huggingface.run_contents import load_run
from huggingface.whole import written_whole
from models.adapters import modules_of
from training import run_directory
from training.config import ConfigError
from training.param_rules import unflatten_params

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base"
ROOT = "base_model.model."  # of the names of tensors
TYPES = {"lora": "LORA", "ia3": "IA3", "prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING"}
# PEFT's task_type, by the end of a class.
TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM",
         "ForConditionalGeneration": "SEQ_2_SEQ_LM", "ForTokenClassification": "TOKEN_CLS",
         "ForQuestionAnswering": "QUESTION_ANS"}  # fmt: skip


def to_peft(run: str, directory: str, base: str = "") -> str:
    """Writes the adapter of checkpoint RUN[@STEP] as PEFT does, and returns a line that describes it.

    base: the Hugging Face directory of the model that it changes; '': it is written to DIRECTORY/base.

    Raises ConfigError, before anything is written, for an adapter that PEFT cannot express."""
    folder, step = scored_checkpoint(run)
    target, contents = pathlib.Path(directory), load_run(folder, step)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{str(directory)!r} is not empty; choose another directory")
    adapter, model = contents.adapter, contents.model_config
    if adapter.name not in TYPES:
        remedy = (
            "export the whole model with to_hf"
            if not adapter.not_merged_because
            else "keep the run"
        )
        raise ConfigError(
            f"{contents.name} has the adapter {adapter.name!r}, which PEFT does not have; {remedy}"
        )
    plain, family, _, name, tree = choose_class(dataclasses.replace(contents, own={}), "")
    params = family.for_class(name).resolve(plain.model_config, tree)
    task = next((kind for end, kind in TASKS.items() if name.endswith(end)), None)
    if adapter.name in ("prompt", "prefix"):
        tensors, config = _tokens_to_peft(adapter, contents.own, model, name, task)
    else:
        modules, arrays = modules_of(unflatten_params(contents.own)), plain.arrays
        export = _lora_to_peft if adapter.name == "lora" else _ia3_to_peft
        tensors, config = export(adapter, modules, params, arrays, model)
    saved = _saved_tensors(contents, plain, params, adapter)
    tensors |= {ROOT + hf: array for hf, array in saved.items()}
    names = sorted({hf.rpartition(".")[0] for hf in saved})
    config |= {
        "peft_type": TYPES[adapter.name],
        "task_type": task,
        "base_model_name_or_path": base or str((target / BASE).absolute()),
        "modules_to_save": names or None,
        "inference_mode": True,
    }
    with written_whole(target) as partial:
        tensors = {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}
        safetensors.numpy.save_file(tensors, partial / WEIGHTS, {"format": "pt"})
        run_directory.write_json(partial / CONFIG, config)
        if not base:
            write_hf(dataclasses.replace(contents, own={}), partial / BASE, name, "")
    size = sum(x.size for x in tensors.values())
    return f"{config['peft_type']} for {name}, {size:,} parameters of {contents.name}"


def _saved_tensors(contents, plain, params, adapter):
    """{tensor: array} of what is trained beside the adapter, or has another value in an export."""
    head = task_head(contents.heads)

    def is_saved(path):
        trained = path.startswith(f"heads/{head}/") if head else False
        trained |= any(re.fullmatch(pattern, path) for pattern in adapter.modules_to_save)
        return trained or plain.arrays[path] is not contents.arrays.get(path)

    found = {}
    for param in params:
        if any(map(is_saved, param.native)):
            arrays = [plain.arrays[path].read() for path in param.native]
            found[param.hf] = param.transform.to_hf(arrays, plain.model_config.vocab_size)
    return found


def _tensors_of(modules, params):
    """[(name of the module in transformers, ResolvedParam, [module path here or '' without an adapter])].

    Raises ConfigError for a module that has no tensor there."""
    found, left = [], set(modules)
    for param in params:
        names = [path.rpartition("/")[0] for path in param.native]
        if all(path.endswith("/kernel") for path in param.native) and left & {*names}:
            own = [name if name in modules else "" for name in names]
            found.append((param.hf.removesuffix(".weight"), param, own))
            left -= {*names}
    if left:
        raise ConfigError(
            f"transformers has no layer for {sorted(left)[0]!r}; export with merge and to_hf"
        )
    return found


def _lora_to_peft(adapter, modules, params, arrays, model):
    """A tensor that joins several of our layers (GPT-2's c_attn) gets the ranks of all of them, in blocks:
    A is their A side by side, and each layer's B has only its own rows."""
    tensors, ranks = {}, {}
    for name, param, own in _tensors_of(modules, params):
        present = [module for module in own if module]
        rank = adapter.rank * len(present)
        a = np.concatenate([modules[m]["lora_a/kernel"] for m in present], axis=1)
        blocks = []
        for path, module in zip(param.native, own, strict=True):
            block = np.zeros((rank, arrays[path].shape[1]), np.float32)
            if module:
                first = present.index(module) * adapter.rank
                block[first : first + adapter.rank] = modules[module]["lora_b/kernel"]
            blocks.append(block)
        b = param.transform.to_hf(blocks, model.vocab_size)
        tensors[f"{ROOT}{name}.lora_A.weight"] = a.T
        tensors[f"{ROOT}{name}.lora_B.weight"] = b if param.transform.transpose else b.T
        if adapter.use_dora:
            scales = [
                modules[module]["magnitude/scale"] if module
                else np.linalg.norm(arrays[path].read(), axis=0)
                for path, module in zip(param.native, own, strict=True)
            ]  # fmt: skip
            vector = param.transform._replace(transpose=False).to_hf(scales, model.vocab_size)
            tensors[f"{ROOT}{name}.lora_magnitude_vector"] = vector
        ranks[name] = rank
    rank = min(ranks.values())

    def alpha(rank):  # so that each layer keeps its scale
        return adapter.scale * (rank**0.5 if adapter.use_rslora else rank)

    others = {name: each for name, each in ranks.items() if each != rank}
    config = {
        "r": rank,
        "lora_alpha": alpha(rank),
        "rank_pattern": others,
        "alpha_pattern": {name: alpha(each) for name, each in others.items()},
        "lora_dropout": adapter.dropout_rate,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        "target_modules": list(ranks),
        "fan_in_fan_out": _is_conv1d(params, ranks),
        "bias": "none",
    }
    return tensors, config


def _is_conv1d(params, names):
    """Whether these modules store kernels [in, out] (GPT-2's Conv1D), as one family does for all."""
    return not all(p.transform.transpose for p in params if p.hf.removesuffix(".weight") in names)


def _ia3_to_peft(adapter, modules, params, arrays, model):
    tensors, inputs, names = {}, [], []
    for name, param, own in _tensors_of(modules, params):
        names.append(name)
        if any(module and "input/scale" in modules[module] for module in own):
            inputs.append(name)
            tensors[f"{ROOT}{name}.ia3_l"] = modules[own[0]]["input/scale"][None]
            continue
        scales = [
            modules[module]["output/scale"]
            if module
            else np.ones(arrays[path].shape[1], np.float32)
            for path, module in zip(param.native, own, strict=True)
        ]
        vector = param.transform._replace(transpose=False).to_hf(scales, model.vocab_size)
        tensors[f"{ROOT}{name}.ia3_l"] = vector[:, None]
    config = {
        "target_modules": names,
        "feedforward_modules": inputs,
        "fan_in_fan_out": _is_conv1d(params, names),
    }
    return tensors, config


def _tokens_to_peft(adapter, own, model, name, task):
    """PEFT reads heads at positions that count the prompt, so that only language models compute the same;
    its prefixes are those of a decoder's self-attention."""
    flat = dict(sorted(own.items()))
    layers = model.num_layers
    if task != "CAUSAL_LM" or any("cross_attention" in path for path in flat):
        raise ConfigError(
            f"PEFT computes another function with a {adapter.name} in {name}; only a decoder with its "
            f"language model head can be exported with one"
        )
    parts = [
        flat.get(f"decoder/layer_{i}/self_attention/prefix/{part}")
        for i in range(layers)
        for part in ("key", "value")
    ]
    if adapter.name == "prefix" and any(part is None for part in parts):
        raise ConfigError("PEFT has a prefix in every layer; train with one in each self-attention")
    is_prompt = adapter.name == "prompt"
    array = flat["embed/tokens/prompt/embedding"] if is_prompt else np.concatenate(parts, axis=1)
    heads = model.num_heads if is_prompt else model.resolved_num_kv_heads
    config = {
        "num_virtual_tokens": adapter.num_virtual_tokens,
        "token_dim": array.shape[1] if is_prompt else array.shape[1] // (2 * layers),
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
    }
    config |= {"prompt_tuning_init": "RANDOM"} if is_prompt else {"prefix_projection": False}
    return {"prompt_embeddings": array}, config
