"""What a run begins with: a run of ours, a Hugging Face directory, or word vectors, told apart by name.

Between the entry files' `init_from` and what reads parameters: a Hugging Face directory is imported
into the cache directory once, as a run, and is a run from then on.
"""

import dataclasses
import logging
import os
import pathlib
import re
import shutil

import jax
import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from data.files import cache_directory, content_hash, digest, locked
from huggingface import halves
from huggingface.convert import from_hf
from huggingface.families import FAMILIES
from huggingface.weights import read_json
from models.config import ModelConfig, completed
from training import paths, rules, run_directory, transfer
from training.checkpoint import locate, params_metadata
from training.config import ConfigError
from training.transfer import InheritedConfig

log = logging.getLogger("triptych")

# Changed when the same directory would become another run.
FORMAT = 1
# What of a directory makes a run, and so its identity.
_FILES = re.compile(r".*\.safetensors(\.index\.json)?|config\.json|.*token.*\.json|vocab\.(txt|json)"
                    r"|merges\.txt|.*\.model")  # fmt: skip
_HEAD = "heads/classification/output"


def run_of(init_from, cache_dir="", say=log.info):
    """`init_from` as a run: a Hugging Face directory is imported, all else is what it was.

    The import lies in the cache directory under the digest of the directory's files; of several
    processes one makes it and the others wait. Raises ConfigError for a model that cannot be
    imported."""
    config = pathlib.Path(init_from) / "config.json"
    if paths.remote(init_from) or not config.is_file() or "model_type" not in read_json(config):
        return init_from
    source = config.parent.resolve()
    folders = (config.parent, config.parent / halves.INSIDE)
    files = [f for folder in folders if folder.is_dir() for f in sorted(folder.iterdir())]
    files = [f for f in files if _FILES.fullmatch(f.name) and f.is_file()]
    names = [(str(f.relative_to(config.parent)), content_hash(str(f))) for f in files]
    identity = digest(FORMAT, names)
    folder = cache_directory(cache_dir) / "huggingface"
    folder.mkdir(exist_ok=True)
    run = folder / f"{re.sub(r'[^a-zA-Z0-9.-]', '_', source.name)[:40]}-{identity[:16]}"
    with locked(run.with_name(run.name + ".lock"), say):
        if not run.is_dir():
            partial = run.with_name(f"{run.name}.tmp-{os.getpid()}")
            try:
                found = from_hf(str(source), str(partial))
                os.replace(partial, run)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            say(f"imported {found}: {run}")
    return str(run)


def adopted(config, folder=None):
    """A train.Config that continues a published model, with what is that model's put in.

    Its tokenizer; where init_as is `same` its network too, but for what training may choose
    (InheritedConfig). A run that has begun in `folder` is complete and asks its own files. Other
    configs come back as they are. Raises ConfigError for a network of another architecture."""
    if not config.init_from:
        return config
    begun = folder is not None and run_directory.read_manifest(folder)
    run = paths.of(folder) if begun else locate(run_of(config.init_from, config.data.cache_dir))[0]
    if not begun and "huggingface" not in run_directory.read_manifest(run):
        return config
    own = dataclasses.replace(config.tokenizer, path=str(run / "tokenizer.json"))
    config = dataclasses.replace(config, tokenizer=own)
    there = ModelConfig(**run_directory.read_config(run)["model"])
    if begun:
        return dataclasses.replace(config, model=there)
    if config.init_as != "same":
        return config
    if there.architecture != config.model.architecture:
        raise ConfigError(
            f"config.init_from={config.init_from!r} is of architecture {there.architecture!r}, this run "
            f"of {config.model.architecture!r}; begin with configs/{there.architecture}.py"
        )
    chosen = {f.name: getattr(config.model, f.name) for f in dataclasses.fields(InheritedConfig)}
    model, lines = InheritedConfig(**chosen).apply(there)
    for line in lines:
        log.info(line)
    return dataclasses.replace(config, model=model)


def origin(config, folder, begun):
    """(where parameters come from, ModelConfig, tokenizer, lines that say what was inherited).

    A run that has begun is complete: it needs the pretrained one no more, wherever that has gone.
    """
    if begun:
        inherited = ModelConfig(**run_directory.read_config(folder)["model"])
        return (begun["init_from"], config.model.apply(inherited)[0],
                tokenizers.load(folder / "tokenizer.json"), [])  # fmt: skip
    if vectors.is_file(config.init_from):
        source, read = config.init_from, vectors.read(config.init_from, config.vectors_limit)
        tokenizer, size = read.tokenizer(), read.table.shape[1]
    else:
        run, at = locate(run_of(config.init_from))
        source, tokenizer = f"{run}@{at}", tokenizers.load(run / "tokenizer.json")
        inherited = ModelConfig(**run_directory.read_config(run)["model"])
        if inherited.architecture != "embeddings":
            if config.network != ModelConfig():
                raise ConfigError(
                    f"config.network is given, but init_from={source!r} has a network of its own; "
                    "leave it out, or begin with word vectors"
                )
            model, lines = config.model.apply(inherited)
            return source, model, tokenizer, lines
        size = inherited.width
    network = transfer.around(config.network, size, config.transfer, source)
    network = completed(network, tokenizer.size, config.task.length)
    return source, config.model.apply(network)[0], tokenizer, []


def inherit(config, source, tokenizer, labels, params, shardings):
    """(params with what the arm takes over from `source`, lines that say what that was).

    The head of a published classifier comes along where its labels have the names of `labels`."""
    flat = rules.paths(params)
    if vectors.is_file(source):
        if config.transfer == "none":
            return params, [f"nothing of {source} but its vocabulary"]
        ids, rows = vectors.read(source, config.vectors_limit).rows(tokenizer)
        params = transfer.set_rows(params, shardings, ids, rows)
        return params, [f"loaded {len(ids):,} vectors of {source} into {transfer.EMBEDDINGS}"]
    run, at = locate(run_of(config.embeddings_from) if config.embeddings_from else source)
    theirs = tokenizers.load(run / "tokenizer.json").fingerprint
    if theirs != tokenizer.fingerprint:
        raise ConfigError(
            f"config.embeddings_from={str(run)!r} has another tokenizer ({theirs[:12]}, here "
            f"{tokenizer.fingerprint[:12]}); train it with --config.tokenizer.path=RUN of init_from"
        )
    new, drop, found = config.restore.new, config.restore.drop, params_metadata(run, at)
    order, said = _kept_head(run, labels, config.task) if config.transfer == "all" else ([], [])
    if order:
        new = tuple(pattern for pattern in new if not re.fullmatch(pattern, _HEAD))
    report = transfer.plan(flat, found, config.transfer, new, drop, str(run))
    lines = report.lines(flat) + said
    if report.loaded:
        lines = [transfer.origin(run, at, config.init_weights), *lines]
    params = transfer.load(run, at, report, params, shardings, config.init_weights)
    if order != sorted(order):
        flat, places = rules.paths(params), rules.paths(shardings)
        moved = {path: jax.jit(lambda x: x[..., np.array(order)], out_shardings=places[path])(leaf)
                 for path, leaf in flat.items() if path.startswith(_HEAD)}  # fmt: skip
        params = rules.merge(moved, params)
    return params, lines


def _kept_head(run, labels, task):
    """(for each of our labels its number in a published classifier, [] where its head stays behind;
    lines that say why)."""
    manifest = run_directory.read_manifest(run)
    theirs = manifest.get("labels", []) if "huggingface" in manifest else []
    if not theirs:
        return [], []
    if sorted(theirs) != sorted(labels):
        return [], [f"its head stays behind: it tells {', '.join(theirs[:6])} apart, the task "
                    f"{', '.join(labels[:6])}"]  # fmt: skip
    family = FAMILIES[manifest["huggingface"]["model_type"]]
    reading = manifest["huggingface"].get("reading", "")
    lacks = [f"config.task.{name}={value!r}"
             for name, value in family.unmet(dataclasses.asdict(task), reading).items()]  # fmt: skip
    if lacks:
        return [], [f"its head stays behind; {' '.join(lacks)} would keep it"]
    return [theirs.index(label) for label in labels], ["its head is kept: the labels are the same"]
