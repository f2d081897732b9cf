"""from_hf and to_hf: a Hugging Face directory becomes a run directory, and back, by one table.
Called by tools/convert.py and as_run.py; the tables are in huggingface/families/.
All names, shapes and dtypes are checked before anything is written.
"""

import functools
import math
import pathlib

import ml_dtypes
import numpy as np

from huggingface import electra_pair, param_shapes, published, tensors
from huggingface.electra_pair import GENERATOR
from huggingface.export_class import choose_class, task_head, task_of
from huggingface.families import FAMILIES
from huggingface.run_contents import RunContents, load_run, save_run
from huggingface.tokenizers import padding, read_tokenizer, write_tokenizer
from huggingface.weights import Leaf, inside, open_weights, read_json, write_weights
from huggingface.whole import written_whole
from training import checkpoint, paths, run_directory
from training.config import ConfigError
from training.param_rules import unflatten_params

GENERATION = "generation_config.json"
# Dtypes of Hugging Face tensors; ours are float32, which represents each of these exactly.
DTYPES = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("<f2"),
}


# ---- import --------------------------------------------------------------------------------------


def from_hf(source: str, workdir: str) -> str:
    """Makes a run directory of a Hugging Face directory, and returns a line that describes it. An
    ELECTRA discriminator and its generator become one run.

    Raises ConfigError, before anything is written, for an unsupported class or config value, and for
    tensors that are missing, unexpected or of another shape or dtype.
    """
    folder, source = paths.of(workdir), pathlib.Path(source)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{str(workdir)!r} is not empty; choose another directory for the run")
    contents, pair = read_hf(source), electra_pair.has_generator(source)
    if pair:
        contents = electra_pair.join(contents, read_hf(source / GENERATOR))
    with written_whole(folder) as partial:
        save_run(contents, partial)
    origin, count = contents.origin, sum(map(math.prod, contents.shapes.values()))
    line = f"{origin['class']} in {origin['dtype']}, {count:,} parameters with a padded vocabulary"
    if pair:
        size = origin[GENERATOR]["generator_size"]
        line += f"; pretrain it and its generator with --config.objective.generator_size={size:g}"
    return line + origin["not_used"]


def read_hf(source):
    """The RunContents of a Hugging Face directory, checked."""
    if not (source / "config.json").is_file():
        remedy = "expected a Hugging Face directory with a model and its tokenizer"
        if (source / "adapter_config.json").exists():
            remedy = "but a PEFT adapter: python -m tools.convert from_peft DIR RUN_DIR"
        raise ConfigError(f"{str(source)!r} has no config.json; {remedy}")
    config = read_json(inside(source, "config.json"))
    family, name = _family_and_class(config, source)
    family = family.with_prefix(family.class_prefixes.get(name, family.prefix))
    head, labels = task_head(family.classes[name].split()), []
    model, ignored = family.read_config(config)
    if head and published.has_labels(head):
        labels = published.labels_of(config, family, head)
        head = published.head_of(config, head, len(labels))
        labels = labels if head != "regression" or len(labels) > 1 else []
    family = family.for_head(head)
    weights = open_weights(source, name)
    family, stored = tensors.named(family, weights, source)
    tied = tensors.is_tied(family, model, weights, stored)
    model, stored = family.model_config(config, tied), tensors.share(family, stored, tied)
    num_layers = max(model.num_layers, model.num_decoder_layers)
    if num_layers > len(weights.leaves):
        raise ConfigError(
            f"{source}/config.json has {num_layers:,} layers, but its files have {len(weights.leaves)} "
            f"tensors ({family.sizes(config)}); download both again"
        )
    needs = family.head_needs_in(config, head)
    shapes = param_shapes.of_model(family, model, len(labels))
    required, optional = param_shapes.of_class(family, shapes, name)
    tree = required | _present(family.resolve(model, optional), optional, stored)
    params = family.resolve(model, tree)
    left_out = tensors.check(
        family, model, tree, params, weights, stored, source, dtypes=DTYPES,
        others=[param.hf for param in family.resolve(model, shapes, strict=False)],
        sizes=family.sizes(config),
    )  # fmt: skip
    tokenizer = read_tokenizer(source)
    if tokenizer.size > model.vocab_size:
        raise ConfigError(
            f"the tokenizer of {source} has {tokenizer.size} tokens, but its config.json has "
            f"vocab_size={model.vocab_size}; download both again"
        )
    published.check_start(config, family, tokenizer, source)

    def read(param, part):
        shapes = [tree[path] for path in param.native]
        if param.hf not in stored:  # one of family.optional
            return np.zeros(shapes[part], np.float32)
        arrays = param.transform.to_native(weights.read(stored[param.hf]), shapes)
        with np.errstate(over="ignore"):
            array = np.array(arrays[part], np.float32)
        tensors.check_finite(array, stored[param.hf], source)
        return array

    arrays = {
        path: checkpoint.LazyArray(tree[path], functools.partial(read, param, part))
        for param in params
        for part, path in enumerate(param.native)
    }
    present = [param for param in params if param.hf in stored]
    dtypes = {param.hf: str(weights.leaves[stored[param.hf]].dtype) for param in present}
    main_dtype = max(DTYPES, key=list(dtypes.values()).count)
    generation = inside(source, GENERATION)
    origin = {
        "source": str(source),
        "model_type": family.model_type,
        "class": name,
        "dtype": main_dtype,
        "dtypes": {tensor: dtype for tensor, dtype in dtypes.items() if dtype != main_dtype},
        "config": published.other_keys(config, family, family.hf_config(model)[0]),
        "generation": read_json(generation) if generation else None,
        "not_used": published.ignored_line(ignored, left_out),
    }
    if head:
        origin |= {"head": head, "head_needs": needs}
    origin |= published.head_origin(config, head)
    config = {"huggingface": str(source), "seed": {}}
    return RunContents(str(source), model, arrays, tokenizer, labels, origin, config)


def _family_and_class(config, source):
    """The family and the class of a config.json; the base model if it names no class."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        mixture = published.mixture_key(config)
        raise ConfigError(
            f"{source}/config.json has model_type={model_type!r}"
            f"{f', a mixture of experts ({mixture}), which is not supported' if mixture else ''}; expected "
            f"one of {', '.join(FAMILIES)}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method", "?") if isinstance(method, dict) else method
        raise ConfigError(
            f"{source}/config.json has quantization_config ({method}): quantized weights are not supported; "
            "take the original checkpoint, or load it with transformers, call model.dequantize() and "
            "save_pretrained"
        )
    family = FAMILIES[model_type]
    names = config.get("architectures") or [family.base_class]
    if not isinstance(names, list) or str(names[0]) not in family.classes:
        raise ConfigError(
            f"{source}/config.json has architectures={names!r}; expected one of "
            f"{', '.join(family.classes)}"
        )
    return family, names[0]


def _present(params, optional, stored):
    """The optional parameters of those layers that a directory has."""
    absent = {path.rpartition("/")[0] for p in params if p.hf not in stored for path in p.native}
    return {
        path: shape for path, shape in optional.items() if path.rpartition("/")[0] not in absent
    }


# ---- export --------------------------------------------------------------------------------------


def to_hf(run: str, directory: str, dtype: str = "", architecture: str = "") -> str:
    """Writes checkpoint RUN[@STEP] as a Hugging Face directory, and returns a line that describes it.
    The default step is the one that finetune.py scored, else the newest.

    Args:
      dtype: of the tensors; '': as in the directory that the run was imported from, else float32.
      architecture: a class of transformers; '': the one with the run's heads.

    Raises ConfigError, before anything is written, for a model that no class can express, naming the
    values that one could.
    """
    folder, step = scored_checkpoint(run)
    target = pathlib.Path(directory)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{str(directory)!r} is not empty; choose another directory")
    if dtype and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not supported; expected {', '.join(DTYPES)}")
    contents = load_run(folder, step).merged()
    with written_whole(target) as partial:
        lines = _write_parts(contents, partial, dtype, architecture)
    return f"{' and '.join(lines)} of {contents.name}"


def scored_checkpoint(run):
    """(run directory, step) of RUN[@STEP]; by default the step that finetune.py scored, else the newest."""
    return checkpoint.resolve_checkpoint(run, run_directory.scored_step(run))


def merge(run: str, workdir: str) -> str:
    """Writes checkpoint RUN[@STEP] as a run with plain parameters, which needs no other run, and returns a
    line that describes it: adapters are merged into the weights.

    Raises ConfigError, before anything is written, for an adapter that is not a change of weights."""
    folder, step = scored_checkpoint(run)
    target = paths.of(workdir)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{str(workdir)!r} is not empty; choose another directory for the run")
    contents = load_run(folder, step)
    plain, record = contents.merged(), run_directory.read_config(folder)
    manifest = run_directory.read_manifest(folder) | {"merged": f"{folder}@{step}"}
    with written_whole(target) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        checkpoint.write_params(partial, 0, unflatten_params(plain.arrays))
        plain.tokenizer.save(partial / "tokenizer.json")
        run_directory.write_manifest(partial, plain.config | {"seed": {}}, manifest)
        run_directory.write_config(partial, plain.config, record["kind"], plain.model_config)
    return f"{len(plain.arrays)} tensors, {len(contents.own)} of an adapter merged"


def _write_parts(contents, target, dtype, architecture):
    """Writes one directory, or that of a discriminator and of its generator; returns their lines."""
    parts = [(contents, target, architecture)]
    if not architecture and any(path.startswith(f"{GENERATOR}/") for path in contents.arrays):
        discriminator, generator = electra_pair.split(contents)
        parts = [
            (discriminator, target, electra_pair.DISCRIMINATOR_CLASS),
            (generator, target / GENERATOR, electra_pair.GENERATOR_CLASS),
        ]
    return [write_hf(*part, dtype) for part in parts]


def write_hf(contents, target, architecture, dtype):
    contents, family, config, name, tree = choose_class(contents, architecture)
    model, origin, tokenizer = contents.model_config, contents.origin, contents.tokenizer
    family = family.for_class(name)
    params = {param.hf: param for param in family.resolve(model, tree)}
    ids = _token_ids(contents, config)
    main_dtype = dtype or origin.get("dtype", "float32")
    other_dtypes = {} if dtype else origin.get("dtypes", {})
    leaves = {
        tensor: Leaf(
            DTYPES[other_dtypes.get(tensor, main_dtype)],
            param.transform.hf_shape([tree[path] for path in param.native], model.vocab_size),
        )
        for tensor, param in params.items()
    }
    constants = family.constants(model)
    leaves |= {name: Leaf(DTYPES[main_dtype], array.shape) for name, array in constants.items()}

    def read(tensor):
        if tensor in constants:
            return constants[tensor].astype(leaves[tensor].dtype)
        native = [contents.arrays[path].read() for path in params[tensor].native]
        array = params[tensor].transform.to_hf(native, model.vocab_size)
        return array.astype(leaves[tensor].dtype, copy=False)

    heads = family.classes[name].split()
    head, task = task_head(heads), task_of(contents)[1]
    config = published.config_of(contents, family, config, ids, bool(task))
    config |= {"architectures": [name], "dtype": main_dtype}
    if head:
        config |= published.head_keys(contents, family, head, task)
    elif not task and origin.get("model_type") == family.model_type:
        config |= origin.get("head_keys", {})
    target.mkdir(parents=True, exist_ok=True)
    write_weights(target, leaves, read)
    write_tokenizer(
        tokenizer,
        target,
        architecture=model.architecture,
        head=head,
        max_length=task.get("max_seq_len", model.max_length),
        trained_head=bool(task),
        token_types=model.num_token_types > 1,
    )
    if model.architecture != "encoder" and "lm" in heads or contents.origin.get("generation"):
        generation = published.generation_of(contents, ids)
        if generation is not None:
            run_directory.write_json(target / GENERATION, generation)
    run_directory.write_json(target / "config.json", config)
    return f"{name} in {main_dtype}, {len(params)} tensors,"


def _token_ids(contents, config):
    """Ids of special tokens by their keys in config.json; None if the tokenizer lacks one.

    Raises ConfigError if config.json already has another id (RoBERTa's positions start after that of
    padding)."""
    tokenizer, architecture = contents.tokenizer, contents.model_config.architecture
    ids, encoder = tokenizer.special_ids(), architecture == "encoder"
    keys = {"pad": "pad", "bos": "cls" if encoder else "bos", "eos": "sep" if encoder else "eos"}
    keys |= {"decoder_start": "start"} if architecture == "encoder_decoder" else {}
    ids["pad"] = padding(tokenizer, architecture)
    ids["bos"] = tokenizer.vocabulary().get(tokenizer.special_tokens.get("bos"), ids["eos"])
    found = {f"{key}_token_id": ids[name] for key, name in keys.items()}
    found = {key: number if number >= 0 else None for key, number in found.items()}
    for key, number in found.items():
        if config.get(key, number) != number:
            raise ConfigError(
                f"the model of {contents.name} has {key}={config[key]}, but its tokenizer has {number}; "
                f"train with model.position_offset={(number or 0) + 1}"
            )
    return found
