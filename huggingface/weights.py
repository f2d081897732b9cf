"""Safetensors files of a model directory: opened and checked, then read and written shard by shard.

Below huggingface/convert.py. The `safetensors` package reads and writes the files; this module handles
the directory around them: shards and their index, safe paths, one-line errors.
"""

import collections
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from training.config import ConfigError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Pickles, which run code when they are loaded, and weights of other frameworks.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
DTYPES = {
    "BOOL": np.dtype(bool), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}  # fmt: skip
_CONVERT = ("if you trust it, convert it: python -c \"from transformers import {auto} as M, AutoTokenizer as "
            "T; [X.from_pretrained('DIR').save_pretrained('NEW') for X in (M, T)]\"")  # fmt: skip
# The Auto class of a class, by the end of its name: it keeps the head.
AUTO_CLASSES = {
    "MaskedLM": "AutoModelForMaskedLM", "CausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM", "ConditionalGeneration": "AutoModelForSeq2SeqLM",
    "SequenceClassification": "AutoModelForSequenceClassification",
    "PreTraining": "AutoModelForPreTraining", "Model": "AutoModel",
    "MultipleChoice": "AutoModelForMultipleChoice",
    "NextSentencePrediction": "AutoModelForNextSentencePrediction",
}  # fmt: skip


_POINTER = b"version https://git-lfs"


class Leaf(NamedTuple):
    """Dtype and shape of a tensor; bfloat16 is the dtype of ml_dtypes."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size in a file."""
        return self.dtype.itemsize * math.prod(self.shape)


class Weights:
    """The tensors of a directory, from `open_weights`.

    Attributes:
      leaves: {name: Leaf}, file by file.
      files: the pathlib.Paths of the files.
    """

    def __init__(self, files: dict[pathlib.Path, dict[str, tuple]]):
        self.files = tuple(files)
        self._tensors = {name: each for tensors in files.values() for name, each in tensors.items()}
        self.leaves = {name: leaf for name, (_, leaf) in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """Copies one tensor from its file, which stays memory-mapped."""
        handle, _ = self._tensors[name]
        return handle.get_tensor(name)


def inside(directory: str | pathlib.Path, name: str) -> pathlib.Path | None:
    """The path of file `name` in a model directory, or None if it does not exist.

    Raises ConfigError for a name with path separators, for a link out of the directory (except the
    links of a Hugging Face cache from snapshots/ to blobs/), for anything but a regular file, and for
    a pointer of Git LFS.
    """
    directory = pathlib.Path(directory)
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ConfigError(
            f"{directory} refers to the file {name!r}; expected the name of a file in that directory: "
            "do not use a directory that refers to files elsewhere"
        )
    path = directory / name
    if not os.path.lexists(path):
        return None
    root, target = (pathlib.Path(os.path.realpath(each)) for each in (directory, path))
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(each) for each in roots):
        raise ConfigError(
            f"{path} is a link to {target}, outside of its directory; copy the file into the directory"
        )
    if not target.is_file():
        raise ConfigError(f"{path} is not a file; expected a regular file: download it again")
    with open(path, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise ConfigError(f"{path} is a Git LFS pointer, not the file: run git lfs pull")
    return path


def read_json(path: pathlib.Path) -> dict:
    """The object in a JSON file. Raises ConfigError if there is none, or if it repeats a key."""

    def unique(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            key = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {key!r} appears twice")
        return found

    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=unique)
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        problem = _one_line(error)
        raise ConfigError(f"{path} is not a JSON object ({problem}); download it again") from error
    return found


def open_weights(directory: str | pathlib.Path, architecture: str = "Model") -> Weights:
    """Opens `model.safetensors`, or the files named by its index, and checks their headers.
    `architecture` is the class in config.json, for messages.

    Nothing is unpickled, and no name leads out of the directory.

    Raises ConfigError, in one line, for missing, incomplete or malicious files.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise ConfigError(
            f"{str(directory)!r} is not a directory; expected one with config.json and {SINGLE}"
        )
    if file := inside(directory, SINGLE):
        return open_file(file)
    if index := inside(directory, INDEX):
        return _open_shards(directory, index)
    names = sorted(path.name for path in directory.iterdir())
    auto = next(
        (auto for end, auto in AUTO_CLASSES.items() if architecture.endswith(end)), "AutoModel"
    )
    convert = _CONVERT.format(auto=auto)
    pickles = [f"{name} is never unpickled: {convert}" for name in names if name.endswith(PICKLES)]
    raise ConfigError(
        f"{directory} has neither {SINGLE} nor {INDEX}; it has {', '.join(names[:6]) or 'no files'}: "
        f"{pickles[0] if pickles else 'download the model again, with its safetensors'}"
    )


def open_file(path: pathlib.Path) -> Weights:
    """The tensors of one file. Raises ConfigError if it is not safetensors."""
    return Weights({path: _open(path)})


def _open_shards(directory, index):
    """Weights of the files that an index names. Index and files must list the same tensors."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index} has no weight_map from tensors to files; download it again")
    files = {}
    for shard in weight_map.values():
        if isinstance(shard, str) and directory / shard in files:
            continue
        path = inside(directory, shard)
        if path is None:
            raise ConfigError(
                f"{directory / shard} is missing but {index.name} names it; download it"
            )
        files[path] = _open(path)
    found = {(name, path.name) for path, tensors in files.items() for name in tensors}
    if wrong := sorted(found ^ set(weight_map.items())):
        raise ConfigError(
            f"{index} and its files disagree about tensor {wrong[0][0]!r}; download all of them again"
        )
    return Weights(files)


def _open(path):
    """{name: (handle, Leaf)} of one file, whose header safetensors has checked."""
    found = {}
    try:
        handle = safetensors.safe_open(path, framework="numpy")
        for name in handle.keys():  # noqa: SIM118
            tensor = handle.get_slice(name)
            dtype, shape = DTYPES.get(tensor.get_dtype()), tuple(tensor.get_shape())
            if dtype is None:
                raise ConfigError(
                    f"{path}: tensor {name!r} has dtype {tensor.get_dtype()}; convert the model to one of "
                    f"{', '.join(DTYPES)}"
                )
            found[name] = handle, Leaf(dtype, shape)
    except (safetensors.SafetensorError, OSError) as error:
        problem = _one_line(error)
        raise ConfigError(f"{path} is not safetensors ({problem}); download it again") from error
    return found


def write_weights(
    directory: str | pathlib.Path,
    leaves: dict[str, Leaf],
    read: Callable[[str], np.ndarray],
    metadata: dict[str, str] | None = None,
    max_shard_size: int = 200_000_000,
) -> list[pathlib.Path]:
    """Writes the tensors that `read(name)` returns as safetensors files and returns their paths.

    Writes one file, or shards of at most `max_shard_size` bytes (a larger tensor gets its own) and their
    index. Only one shard is in memory. Files have temporary names until all of them are complete.
    The default metadata is {"format": "pt"}, which transformers requires.

    Raises ConfigError for a directory that has weights, an unsupported dtype, a tensor that differs
    from its Leaf, and a full disk.
    """
    directory = pathlib.Path(directory)
    existing = [name for name in (SINGLE, INDEX) if os.path.lexists(directory / name)]
    if existing:
        raise ConfigError(
            f"{directory / existing[0]} exists; expected a directory without weights: choose another"
        )
    shards = _split(leaves, max_shard_size)
    count = len(shards)
    names = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    files = dict(zip(names if count > 1 else [SINGLE], shards, strict=True))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".weights-", dir=directory) as folder:
            folder = pathlib.Path(folder)
            for file, shard in files.items():
                _write_shard(folder / file, shard, read, metadata or {"format": "pt"})
            for file in files:
                (folder / file).replace(directory / file)
            if count > 1:
                weight_map = {name: file for file, shard in files.items() for name in shard}
                size = sum(leaf.bytes for leaf in leaves.values())
                index = {"metadata": {"total_size": size}, "weight_map": weight_map}
                (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
                (folder / INDEX).replace(directory / INDEX)
    except (safetensors.SafetensorError, OSError) as error:
        raise ConfigError(
            f"cannot write weights to {directory} ({_one_line(error)}); free disk space or choose another "
            "directory, then run it again"
        ) from error
    return [directory / file for file in files]


def _split(leaves, max_shard_size):
    """[{name: Leaf} of each file], sorted by name, so that a layer is read only once."""
    shards, size = [{}], 0
    for name, leaf in sorted(leaves.items()):
        if shards[-1] and size + leaf.bytes > max_shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = leaf
        size += leaf.bytes
    return shards


def _write_shard(path, leaves, read, metadata):
    """Writes one file and flushes it to disk."""
    tensors = {}
    for name, leaf in leaves.items():
        tensor = read(name)
        if Leaf(tensor.dtype, tensor.shape) != leaf:
            raise ConfigError(
                f"tensor {name!r} is {tensor.dtype}{list(tensor.shape)}; expected "
                f"{leaf.dtype}{list(leaf.shape)} as in its Leaf: correct one of them"
            )
        tensors[name] = np.asarray(tensor, order="C")  # safetensors ignores strides
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(tensors, path, metadata)
    path.chmod(mode)  # safetensors makes files that only their owner can read
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _one_line(error):
    return " ".join(str(error).split())[:160]
