"""from_peft: a directory that PEFT wrote, and the model that it adapts, become a run with an adapter.

LoRA, DoRA, IA3, prompts and prefixes, as in to_peft.py. Called by tools/convert.py.
"""

import dataclasses
import pathlib
import re

import numpy as np

from huggingface import published
from huggingface.convert import read_hf
from huggingface.export_class import task_head
from huggingface.families import FAMILIES
from huggingface.run_contents import save_run
from huggingface.to_peft import BASE, CONFIG, ROOT, TYPES, WEIGHTS
from huggingface.weights import inside, open_file, read_json
from huggingface.whole import written_whole
from models import ADAPTERS
from models.adapters import matching_dense_layers
from tasks import TASKS
from training import paths
from training.checkpoint import LazyArray
from training.config import ConfigError
from training.param_rules import unflatten_params


def from_peft(source: str, workdir: str, base: str = "") -> str:
    """Makes a run directory of a PEFT directory and of the model that it changes; returns a line about it.

    base: the Hugging Face directory of the model; '': the one that adapter_config.json names, or
      SOURCE/base.

    Raises ConfigError, before anything is written, for what this project cannot express."""
    folder, source = paths.of(workdir), pathlib.Path(source)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{str(workdir)!r} is not empty; choose another directory for the run")
    for file in (CONFIG, WEIGHTS):
        if not (source / file).is_file():
            raise ConfigError(
                f"{str(source)!r} has no {file}; expected a directory that PEFT wrote"
            )
    config = read_json(inside(source, CONFIG))
    model_dir = _base_of(source, config, base)
    contents, weights = read_hf(model_dir), open_file(inside(source, WEIGHTS))
    tensors = {
        key.removeprefix(ROOT): np.asarray(weights.read(key), np.float32) for key in weights.leaves
    }
    family = FAMILIES[contents.origin["model_type"]]
    own, saved = _split(tensors)
    kinds = (name for name, task in TASKS.items() if task.peft_task_type == config.get("task_type"))
    head = contents.origin.get("head") or next(kinds, "")
    arrays, labels, origin = _with_saved(contents, family, model_dir, saved, head)
    params = family.resolve(contents.model_config, contents.shapes, strict=False)
    names = {each.hf.removesuffix(".weight"): each for each in params}
    names |= {name.removeprefix(family.prefix): each for name, each in names.items()}
    kind = next((ours for ours, theirs in TYPES.items() if theirs == config.get("peft_type")), "")
    readers = {"lora": _lora, "ia3": _ia3, "prompt": _prompt, "prefix": _prefix}
    if kind not in readers:
        raise ConfigError(
            f"{source}/{CONFIG} has peft_type={config.get('peft_type')!r}; expected one of "
            f"{', '.join(TYPES.values())}"
        )
    fields, found = readers[kind](config, own, names, contents, source)
    adapter = ADAPTERS[kind](**fields)
    contents = dataclasses.replace(
        contents, name=str(source), arrays=arrays, labels=labels, origin=origin, own=found,
        config={**contents.config, "adapter": {"name": kind, **dataclasses.asdict(adapter)}},
    )  # fmt: skip
    with written_whole(folder) as partial:
        save_run(contents, partial)
    size = sum(x.size for x in found.values())
    return f"{config['peft_type']} on {model_dir}, {size:,} parameters of an adapter"


def _base_of(source, config, base):
    named = base or config.get("base_model_name_or_path") or ""
    for place in (pathlib.Path(named), source / named, source / BASE):
        if named and (place / "config.json").is_file() or place == source / BASE and place.is_dir():
            return place
    raise ConfigError(
        f"{source}/{CONFIG} is an adapter of {named!r}, which is not a directory here; give the Hugging "
        f"Face directory of that model as --base=DIR"
    )


def _split(tensors):
    """({(module, part): array} of the adapter, {tensor: array} of modules_to_save)."""
    own, saved = {}, {}
    pattern = (
        r"(?:(.*)\.)?(lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l|prompt_embeddings)"
    )
    for key, array in tensors.items():
        if found := re.fullmatch(
            pattern, key.removesuffix(".weight") if "magnitude" in key else key
        ):
            own[found[1] or "", found[2]] = array
        elif re.search(r"lora_|ia3_|prompt", key):
            raise ConfigError(
                f"tensor {key!r} of PEFT's adapter is not supported; merge it with PEFT"
            )
        else:
            saved[key] = array
    return own, saved


def _with_saved(contents, family, model_dir, saved, head):
    """(arrays, labels, origin) of the base with the tensors of modules_to_save, such as a new head; `head`:
    the task head that they may be of."""
    arrays, origin, labels = dict(contents.arrays), dict(contents.origin), contents.labels
    layers = dict.fromkeys(contents.shapes)
    tables = [
        (each, i)
        for each in family.params
        for i in (range(len(layers)) if "{i}" in each.hf else (0,))
    ]
    names = {}
    for each, i in tables:
        name = each.hf.replace("{i}", str(i))
        native = (each.native,) if isinstance(each.native, str) else each.native
        native = [path.replace("{i}", str(i)) for path in native]
        # Heads of several tasks have the same names there.
        of_other = native[0].startswith("heads/") and native[0].split("/")[1] != head
        if of_other and native[0] not in arrays:
            continue
        if name in saved or name.removeprefix(family.prefix) in saved:
            names[name] = native, each.transform
    for key, array in saved.items():
        native, transform = names.get(key) or names.get(family.prefix + key) or ((), None)
        known = all(path in arrays for path in native)
        if not native or not (known or len(native) == 1):
            raise ConfigError(
                f"tensor {key!r} of PEFT's modules_to_save has no parameter here; leave it out"
            )
        shapes = [arrays[path].shape for path in native] if known else [
            array.T.shape if transform.transpose else array.shape
        ]  # fmt: skip
        for path, part in zip(native, transform.to_native(array, shapes), strict=True):
            arrays[path] = LazyArray(part.shape, lambda part=part: np.array(part, np.float32))
    head = task_head({path.split("/")[1] for path in arrays if path.startswith("heads/")})
    if head and not origin.get("head"):
        config = read_json(model_dir / "config.json")
        count = max(arrays[p].shape[-1] for p in arrays if p.startswith(f"heads/{head}/output/"))
        labels = [f"LABEL_{i}" for i in range(count)]
        needs = family.head_needs_in(config, head)
        origin |= {"head": head, "head_needs": needs, **published.head_origin(config, head)}
        name = next(n for n in family.classes if head in family.heads_of(n)[0])
        origin["class"] = name
        required = set(family.classes[name].split())
        arrays = {
            path: x for path, x in arrays.items()
            if not path.startswith("heads/") or path.split("/")[1] in required
        }  # fmt: skip
    return arrays, labels, origin


def _by_module(own, names, source):
    """[(ResolvedParam, {part: array})] of the modules that a PEFT adapter changes."""
    found = {}
    for (module, part), array in own.items():
        if module not in names:
            raise ConfigError(
                f"{source} adapts {module!r}, which is no layer of the model; check --base"
            )
        found.setdefault(module, {})[part] = array
    return [(module, names[module], parts) for module, parts in sorted(found.items())]


def _patterns(modules, contents, field):
    """Regexes that match these modules of the model, and no other."""
    ends = {"|".join(sorted({module.rpartition("/")[2] for module in modules}))}
    short = [rf".*/({end})" for end in ends] if modules else []
    shapes = {path: np.empty(shape, np.int8) for path, shape in contents.shapes.items()}
    if short and set(matching_dense_layers(unflatten_params(shapes), short, field)) == set(modules):
        return tuple(short)
    return tuple(re.escape(module) for module in sorted(modules))


def _lora(config, own, names, contents, source):
    if config.get("bias") not in (None, "none") or config.get("lora_bias"):
        raise ConfigError(f"{source}/{CONFIG} has biases in the adapter; expected bias='none'")
    modules, found = _by_module(own, names, source), {}
    rank = max(parts["lora_A.weight"].shape[0] for _, _, parts in modules)
    alpha, rslora = float(config["lora_alpha"]), bool(config.get("use_rslora"))

    def pattern(name, module, default):
        for key, value in (config.get(name) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    def scale(alpha, rank):
        return alpha / (rank**0.5 if rslora else rank)

    for module, param, parts in modules:
        a, b = parts["lora_A.weight"].T, parts["lora_B.weight"].T
        there = scale(pattern("alpha_pattern", module, alpha), a.shape[1])
        pad = rank - a.shape[1]  # one rank and one scale here: zeros, and a factor of B
        a = np.pad(a, ((0, 0), (0, pad)))
        b = np.pad(b, ((0, pad), (0, 0))) * (there / scale(alpha, rank))
        outs = [contents.shapes[path][-1] for path in param.native]
        plain = param.transform._replace(transpose=False)
        blocks = plain.to_native(b, [(rank, out) for out in outs])
        vector = parts.get("lora_magnitude_vector")
        vectors = [] if vector is None else plain.to_native(vector, [(out,) for out in outs])
        for i, path in enumerate(param.native):
            place = path.rpartition("/")[0]
            found[f"{place}/lora_a/kernel"] = a
            found[f"{place}/lora_b/kernel"] = np.ascontiguousarray(blocks[i])
            if vectors:
                found[f"{place}/magnitude/scale"] = np.ascontiguousarray(vectors[i])
    targets = [
        path.removesuffix("/lora_a/kernel") for path in found if path.endswith("/lora_a/kernel")
    ]
    fields = {
        "target_modules": _patterns(targets, contents, "target_modules"),
        "rank": rank,
        "alpha": alpha,
        "dropout_rate": float(config.get("lora_dropout") or 0.0),
        "use_rslora": rslora,
        "use_dora": bool(config.get("use_dora")),
    }
    return fields, found


def _ia3(config, own, names, contents, source):
    found, places = {}, {"input": [], "output": []}
    for _, param, parts in _by_module(own, names, source):
        scale = parts["ia3_l"]
        side = "input" if scale.shape[0] == 1 and scale.size > 1 else "output"
        shapes = [(contents.shapes[path][-1],) for path in param.native]
        plain = param.transform._replace(transpose=False)
        vectors = (
            [scale.reshape(-1)] if side == "input" else plain.to_native(scale.reshape(-1), shapes)
        )
        for path, vector in zip(param.native, vectors, strict=True):
            place = path.rpartition("/")[0]
            places[side].append(place)
            found[f"{place}/{side}/scale"] = np.ascontiguousarray(vector)
    return {
        "target_modules": _patterns(places["output"], contents, "target_modules"),
        "feedforward_modules": _patterns(places["input"], contents, "feedforward_modules"),
    }, found


def _check_decoder(config, contents, source):
    if contents.model_config.architecture != "decoder" or config.get("prefix_projection"):
        raise ConfigError(
            f"{source} has peft_type={config['peft_type']}; only those of a decoder, without "
            f"prefix_projection, are supported"
        )


def _prompt(config, own, names, contents, source):
    _check_decoder(config, contents, source)
    array = own["", "prompt_embeddings"]
    return {"num_virtual_tokens": len(array)}, {"embed/tokens/prompt/embedding": array}


def _prefix(config, own, names, contents, source):
    _check_decoder(config, contents, source)
    array, layers = own["", "prompt_embeddings"], contents.model_config.num_layers
    parts = np.split(array, 2 * layers, axis=1)
    found = {
        f"decoder/layer_{i // 2}/self_attention/prefix/{('key', 'value')[i % 2]}": part
        for i, part in enumerate(parts)
    }
    return {"num_virtual_tokens": len(array)}, found
