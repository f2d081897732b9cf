"""from_hf and to_hf: a Hugging Face directory into a run directory of ours, and back, by one table.
Called by tools/convert.py, train.py and finetune.py; the tables are those of huggingface/families/.
All names, shapes and dtypes are checked before anything is written.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from data import tokenizer as tokenizers
from huggingface import halves, shapes
from huggingface.families import FAMILIES
from huggingface.tokenizers import padding, read_tokenizer, write_tokenizer
from huggingface.weights import Leaf, Weights, open_weights, read_json, write_weights
from models.config import ModelConfig
from tasks.config import TaskConfig
from training import checkpoint, paths, rules, run_directory
from training.config import ConfigError

# What a parameter may be stored as there; here it is float32, which holds each of these exactly.
DTYPES = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("<f2"),
}
_BLOCK = 1 << 24  # bytes compared at once


# ---- in ------------------------------------------------------------------------------------------


def from_hf(source: str, workdir: str, alone: bool = False) -> str:
    """Makes a run directory, as train.py writes one before its first update, of a Hugging Face
    directory, and returns a line that says what was found. `alone` leaves out a generator in it.

    Raises ConfigError, before anything is written, for a config value or a class that has no
    counterpart here, and for tensors that are missing, unexpected or of another shape or dtype.
    """
    folder, source = paths.of(workdir), pathlib.Path(source)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{str(workdir)!r} is not empty; choose another directory for the run")
    if not alone and halves.are_in(source):
        return halves.join(source, workdir, functools.partial(from_hf, alone=True))
    if not (source / "config.json").is_file():
        raise ConfigError(
            f"{str(source)!r} has no config.json; expected a Hugging Face directory, with its model and "
            "its tokenizer"
        )
    config = read_json(source / "config.json")
    family = _family_of(config, source)
    name = _class_of(config, family)
    labels, weights = _labels_of(config), open_weights(source)
    if not any(stored.startswith(family.prefix) for stored in weights.leaves):
        family = family.bare()
    stored = {family.present(name): name for name in weights.leaves}
    model = family.model(_untied(config, family, weights, stored))
    if max(model.layers, model.decoder_layers) > len(weights.leaves):
        raise ConfigError(
            f"{source}/config.json says {max(model.layers, model.decoder_layers):,} layers, its files have "
            f"{len(weights.leaves)} tensors; fetch both again"
        )
    reading = family.reading(config) if "classification" in family.classes[name] else ""
    must, may = shapes.of_class(family, shapes.of_network(family, model, len(labels)), name)
    tree = must | _complete(family.moves(model, may), may, stored)
    moves = family.moves(model, tree)
    _check(family, model, tree, moves, weights, stored, source)
    tokenizer = read_tokenizer(source)
    if tokenizer.size > model.vocab_size:
        raise ConfigError(
            f"the tokenizer of {source} has {tokenizer.size} pieces, its config.json "
            f"vocab_size={model.vocab_size}; expected no more than that: fetch both again"
        )

    deferred = {
        path: checkpoint.Deferred(tree[path], _made(weights, stored[move.theirs], move, tree, part))
        for move in moves
        for part, path in enumerate(move.ours)
    }
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_params(folder, 0, rules.merge(deferred, {}))
    tokenizer.save(folder / "tokenizer.json")
    dtypes = {move.theirs: str(weights.leaves[stored[move.theirs]].dtype) for move in moves}
    usual = max(DTYPES, key=list(dtypes.values()).count)
    origin = {
        "source": str(source),
        "model_type": family.model_type,
        "class": name,
        "dtype": usual,
        "dtypes": {n: dtype for n, dtype in dtypes.items() if dtype != usual},
    }
    extra = {"tokenizer": tokenizer.fingerprint, "huggingface": origin}
    if any(path.startswith("heads/classification/") for path in tree):
        extra["labels"], origin["reading"] = labels, reading
    record = {"huggingface": str(source), "seed": {}}
    run_directory.write_manifest(folder, record, extra)
    run_directory.record_run(folder, record, "pretrain", model)
    count = sum(int(np.prod(shape)) for shape in tree.values())
    return f"{name} in {usual}: {len(moves)} tensors, {count:,} parameters with the vocabulary's padding"


def _made(weights, theirs, move, tree, part):
    """A function that makes one of our arrays, float32, when it is called."""

    def read():
        ours = move.how.inward(weights.read(theirs), [tree[path] for path in move.ours])
        return np.array(ours[part], np.float32)

    return read


def _family_of(config, source):
    """The family of a config.json. Raises ConfigError naming those that there are."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            f"{source}/config.json has model_type={kind!r}; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def _class_of(config, family):
    """The class whose parameters a directory holds; without a word that of the network alone."""
    named = config.get("architectures") or [family.network]
    if not isinstance(named, list) or str(named[0]) not in family.classes:
        raise ConfigError(
            f"config.json has architectures={named!r}, which has no counterpart here; expected one of "
            f"{', '.join(family.classes)}"
        )
    return named[0]


def _labels_of(config):
    """Names of the classes, in their order; two of them where config.json does not say."""
    named = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(named, dict) or {str(i) for i in range(len(named))} != {*named}:
        raise ConfigError(f"config.json has id2label={named!r}; expected names by '0', '1', ...")
    return [str(named[str(i)]) for i in range(len(named))]


def _untied(config, family, weights, stored):
    """The config, which no longer says that output and token table are one where they are there as two
    that differ: transformers reads it so, and writes T5 v1.1 so."""
    output = next((line.theirs for line in family.lines if line.ours == "heads/lm/kernel"), "")
    original = family.copies.get(output)
    if output not in stored or original not in stored:
        return config
    same = _equal(weights.read(stored[output]), weights.read(stored[original]))
    return config if same else {**config, "tie_word_embeddings": False}


def _complete(moves, may, stored):
    """Those layers of the heads that a class may have which are in a directory."""
    absent = {path.rpartition("/")[0] for m in moves if m.theirs not in stored for path in m.ours}
    return {path: shape for path, shape in may.items() if path.rpartition("/")[0] not in absent}


def _check(family, model, tree, moves, weights: Weights, stored, source):
    """Raises ConfigError unless the directory has what `moves` read, in these shapes, and no more."""
    wanted = {m.theirs: m.how.shape([tree[p] for p in m.ours], model.vocab_size) for m in moves}
    copies = {a: b for a, b in family.copies.items() if a in stored and a not in wanted}
    wanted |= {copy: wanted[original] for copy, original in copies.items()}
    lines = [f"missing {name}" for name in wanted if name not in stored]
    for name, there in stored.items():
        leaf = weights.leaves[there]
        if name not in wanted:
            lines += [] if family.is_ignored(name) else [f"unexpected {there}"]
        elif leaf.shape != wanted[name]:
            lines.append(f"{there} is {list(leaf.shape)}, expected {list(wanted[name])}")
        elif str(leaf.dtype) not in DTYPES:
            lines.append(f"{there} is {leaf.dtype}, expected one of {', '.join(DTYPES)}")
    if not lines:
        for copy, original in copies.items():
            if not _equal(weights.read(stored[copy]), weights.read(stored[original])):
                lines.append(
                    f"{stored[copy]} differs from {stored[original]}, whose copy it should be"
                )
    if lines:
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise ConfigError(
            f"the tensors in {source} are not what its config.json describes: "
            f"{'; '.join(lines[:3])}{more}; fetch the model again"
        )


def _equal(a, b):
    """Whether two arrays have the same bits; compared in pieces, for they may be large."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return all(
        np.array_equal(a[i : i + _BLOCK], b[i : i + _BLOCK]) for i in range(0, a.size, _BLOCK)
    )


# ---- out -----------------------------------------------------------------------------------------


def to_hf(run: str, directory: str, dtype: str = "", architecture: str = "") -> str:
    """Writes checkpoint RUN[@STEP] of a run as a Hugging Face directory, and returns a line that says
    as what. Without a step it is the one that finetune.py scored, or the newest.

    Args:
      dtype: of the tensors; '': that of the directory the run was made of, else float32.
      architecture: class of transformers; '': the one that has the run's heads.

    Raises ConfigError, before anything is written, for a network without a counterpart there, with the
    values that would have one.
    """
    folder, step = checkpoint.locate(run, _scored(run))
    target = pathlib.Path(directory)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{str(directory)!r} is not empty; choose another directory")
    if dtype and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r} is not in the table; expected {', '.join(DTYPES)}")
    record, manifest = run_directory.read_config(folder), run_directory.read_manifest(folder)
    origin = manifest.get("huggingface", {})
    model, labels = ModelConfig(**record["model"]), manifest.get("labels", [])
    tree = {p: leaf.shape for p, leaf in checkpoint.params_metadata(folder, step).items()}
    if not architecture and any(path.startswith(f"{halves.INSIDE}/") for path in tree):

        def alone(run, directory, architecture):
            return to_hf(run, directory, dtype, architecture)

        return halves.part(folder, step, record, manifest, directory, alone)
    task = record["config"].get("task")
    task = task and dataclasses.asdict(TaskConfig()) | task
    family, config = _family_for(model, origin.get("model_type"), architecture, task, folder)
    name, tree = _class_for(
        family, model, tree, len(labels), origin.get("class"), architecture, folder
    )
    if task and "classification" in family.classes[name]:
        _check_task(family, task, folder)
    moves = family.named(name).moves(model, tree)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    ids = _token_ids(tokenizer, model, config, folder)

    def stored(move):
        wanted = (
            dtype or origin.get("dtypes", {}).get(move.theirs) or origin.get("dtype", "float32")
        )
        return DTYPES[wanted]

    by_name, parameters = {move.theirs: move for move in moves}, _Parameters(folder, step, tree)
    leaves = {
        move.theirs: Leaf(
            stored(move), move.how.shape([tree[p] for p in move.ours], model.vocab_size)
        )
        for move in moves
    }

    def read(theirs):
        move = by_name[theirs]
        ours = [parameters.read(path) for path in move.ours]
        return move.how.outward(ours, model.vocab_size).astype(stored(move), copy=False)

    heads, stored_as = family.classes[name], dtype or origin.get("dtype", "float32")
    config |= {"architectures": [name], "dtype": stored_as, **ids}
    if "classification" in heads:
        config |= {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        } | family.chosen(task or {"reading": origin.get("reading", "usual")})
    target.mkdir(parents=True, exist_ok=True)
    write_weights(target, leaves, read)
    write_tokenizer(
        tokenizer,
        target,
        architecture=model.architecture,
        head=heads,
        max_length=model.max_length,
        token_types=model.token_types > 1,
    )
    if model.architecture != "encoder" and "lm" in heads.split():
        generation = {key: number for key, number in ids.items() if number is not None}
        run_directory.write_json(target / "generation_config.json", generation)
    run_directory.write_json(target / "config.json", config)
    return f"{name} in {stored_as}: {len(moves)} tensors of {folder} at step {step}"


def _scored(run):
    """The step whose scores a finetuned run gives, '' where a step is named or nothing was scored."""
    file = paths.of(run) / "scores.json"
    return json.loads(file.read_text())["step"] if file.is_file() else ""


def _token_ids(tokenizer, model, config, folder):
    """Numbers of special tokens, by their keys in config.json; None where the tokenizer has none.

    Raises ConfigError where the network fixes one, and it is another's (RoBERTa counts positions from
    the number of its padding)."""
    ids = tokenizer.special_ids()
    encoder = model.architecture == "encoder"
    roles = {"pad": "pad", "bos": "cls" if encoder else "bos", "eos": "sep" if encoder else "eos"}
    roles |= {"decoder_start": "start"} if model.architecture == "encoder_decoder" else {}
    ids["pad"] = padding(tokenizer, model.architecture)
    ids["bos"] = tokenizer.vocabulary().get(tokenizer.roles.get("bos"), ids["eos"])
    found = {f"{key}_token_id": ids[role] for key, role in roles.items()}
    found = {key: number if number >= 0 else None for key, number in found.items()}
    for key, number in found.items():
        if config.get(key, number) != number:
            raise ConfigError(
                f"the network of {folder} wants {key}={config[key]}, its tokenizer has {number}; train "
                f"it with model.position_offset={(number or 0) + 1}"
            )
    return found


class _Parameters:
    """The arrays of a checkpoint, on the host, a layer at a time: of those, one is kept."""

    def __init__(self, folder, step, tree):
        self.folder, self.step, self.tree = folder / "checkpoints", step, tree
        self.layer, self.arrays = "", {}

    def read(self, path: str) -> np.ndarray:
        """One array."""
        layer = "/".join(path.split("/")[:-1][:2])
        if layer != self.layer:
            self.layer, self.arrays = layer, {}
            place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            leaves = {
                name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
                for name, shape in self.tree.items()
                if name.startswith(f"{layer}/")
            }
            found = checkpoint.read_params(self.folder, self.step, rules.merge(leaves, {}))
            self.arrays = rules.paths(found)
        return np.asarray(self.arrays[path])


def _family_for(model, kind, architecture, task, folder):
    """(family that can say a network, its config.json)."""
    found = {}
    for family in FAMILIES.values():
        if not architecture or architecture in family.classes:
            config, problems = family.config(model)
            found[family.model_type] = (problems, family, config)
    if not found:
        names = [name for family in FAMILIES.values() for name in family.classes]
        raise ConfigError(
            f"architecture={architecture!r} is in no table; expected one of {', '.join(names)}"
        )
    fitting = [name for name, (problems, _, _) in found.items() if not problems]
    if task:  # a stable sort: of those that fit alike the first
        fitting.sort(key=lambda name: len(found[name][1].unmet(task)))
    if fitting:
        return found[kind if kind in fitting else fitting[0]][1:]
    alike = [n for n, (_, f, _) in found.items() if f.fixed["architecture"] == model.architecture]
    nearest = sorted(alike or found, key=lambda name: len(found[name][0]))[:2]
    said = "; ".join(f"for {name} {', '.join(found[name][0][:7])}" for name in nearest)
    raise ConfigError(
        f"the network of {folder} has no counterpart in transformers: {said}; train one with such values, "
        f"or with preset=NAME"
    )


def _class_for(family, model, tree, classes, origin, architecture, folder):
    """(class that a run is exported as, its parameters {path: shape}).

    A class that is asked for leaves out other heads of the run; else it has all of them.
    """
    whole, fitting = shapes.of_network(family, model, classes), {}
    for name in [architecture] if architecture else family.classes:
        must, may = shapes.of_class(family, whole, name)
        part = {p: shape for p, shape in tree.items() if p in must or p in may}
        if must.keys() <= tree.keys() and (architecture or part == tree):
            fitting[name] = part
    if not fitting:
        heads = sorted(
            {"/".join(path.split("/")[:2]) for path in tree if path.startswith("heads/")}
        )
        raise ConfigError(
            f"{folder} has {', '.join(heads) or 'no heads'}, of which no class of {family.model_type} is "
            f"made ({', '.join(f'{name}: {had}' for name, had in family.classes.items())}); name one "
            f"whose heads it has by --architecture"
        )
    name = origin if origin in fitting else next(iter(fitting))
    return name, fitting[name]


def _check_task(family, task, folder):
    """Raises ConfigError where a classification head reads what its counterpart does not."""
    wrong = [
        f"config.task.{name}={task[name]!r} (expected {value!r})"
        for name, value in family.unmet(task).items()
    ]
    if wrong:
        raise ConfigError(
            f"the head of {folder} has no counterpart in a {family.model_type}: {', '.join(wrong)}; "
            f"finetune it with these values"
        )
