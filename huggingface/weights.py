"""A directory of safetensors files: checked before a tensor is read, read and written one at a time.

Below huggingface/convert.py. Written here because the safetensors package copies what it reads into
memory, has no bfloat16 for NumPy, and writes only tensors that all lie in memory at once.
"""

import collections
import contextlib
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from training.config import ConfigError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that are programs to whoever unpickles them, and weights of other frameworks.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
DTYPES = {
    "BOOL": np.dtype(bool), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package
_LARGEST = 2**63 - 1
_MOST_AXES = 32
_REMEDY = ("make safetensors of it where you trust it: python -c \"from transformers import "
           "AutoModel; AutoModel.from_pretrained('DIR').save_pretrained('NEW')\"")  # fmt: skip


class Leaf(NamedTuple):
    """What a tensor is; bfloat16 is that of ml_dtypes."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size in a file."""
        return self.dtype.itemsize * math.prod(self.shape)


class Weights:
    """The tensors of a directory, all of them checked. Made by `open_weights`.

    Attributes:
      leaves: {name: Leaf}, in the order of the files.
      files: what they were read from, pathlib.Paths.
    """

    def __init__(self, files: list[pathlib.Path], places: dict[str, tuple]):
        self.files = tuple(files)
        self.leaves = {name: leaf for name, (_, leaf, _) in places.items()}
        self._places = places
        self._maps = {}

    def read(self, name: str) -> np.ndarray:
        """One tensor, as a read-only view of the file: its pages are the file's, not this process's."""
        file, leaf, offset = self._places[name]
        if file not in self._maps:
            self._maps[file] = np.memmap(file, np.uint8, mode="r")
        return np.ndarray(leaf.shape, leaf.dtype, self._maps[file], offset)


def inside(directory: str | pathlib.Path, name: str) -> pathlib.Path | None:
    """The file `name` of a model directory, or None where there is none.

    Raises ConfigError for a name that is more than a name, a link that leaves the directory (in a
    Hugging Face cache files are links from snapshots/ into blobs/, which is no leaving), and what
    is not a file.
    """
    directory = pathlib.Path(directory)
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ConfigError(
            f"{directory} names the file {name!r}; expected the name of a file in that directory: "
            "do not use a directory that reaches for other files"
        )
    path = directory / name
    if not os.path.lexists(path):
        return None
    try:
        home, real = directory.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise ConfigError(
            f"{path} leads nowhere ({error}); copy the file into the directory"
        ) from error
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(each) for each in homes):
        raise ConfigError(
            f"{path} is a link to {real}, outside of its directory; copy the file into the directory"
        )
    if not real.is_file():
        raise ConfigError(f"{path} is not a file; expected a regular file, fetch it again")
    return path


def read_json(path: pathlib.Path) -> dict:
    """The object in a JSON file of a model directory.

    Raises ConfigError where it is none, is no UTF-8, or gives a key twice."""
    try:
        return _object(path.read_bytes(), path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error


def open_weights(directory: str | pathlib.Path) -> Weights:
    """The tensors of `model.safetensors`, or of the files that its index names.

    Every header is read and checked, so that a `read` cannot fail later: nothing is unpickled, no
    byte belongs to two tensors or to none, and no name leads out of the directory.

    Raises ConfigError, one line, for whatever is missing, torn or hostile.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise ConfigError(
            f"{str(directory)!r} is not a directory; expected one with config.json and {SINGLE}"
        )
    file = inside(directory, SINGLE)
    if file:
        return Weights([file], {name: (file, *rest) for name, rest in _tensors(file).items()})
    index = inside(directory, INDEX)
    if index:
        return _sharded(directory, index)
    there = sorted(path.name for path in directory.iterdir())
    pickled = [name for name in there if name.endswith(PICKLES)]
    if pickled:
        raise ConfigError(
            f"{directory / pickled[0]} is not safetensors and is never unpickled (a pickle can run any "
            f"program); expected {SINGLE}: {_REMEDY}"
        )
    raise ConfigError(
        f"{directory} has neither {SINGLE} nor {INDEX}; it has {', '.join(there[:6]) or 'nothing'}: "
        "fetch the model again, with its safetensors"
    )


def _sharded(directory, index):
    """Weights of the files that an index names, each tensor in the file that it says."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ConfigError(f"{index} has no weight_map of names and files; fetch it again")
    files, places = {}, {}
    for shard in named.values():
        if isinstance(shard, str) and shard in files:
            continue
        path = inside(directory, shard)
        if path is None:
            raise ConfigError(f"{directory / shard} is missing, which {index.name} names; fetch it")
        if not shard.endswith(".safetensors"):
            raise ConfigError(
                f"{path} is not safetensors and is never unpickled, but {index.name} names it; {_REMEDY}"
            )
        files[shard] = path, _tensors(path)
    for name, shard in named.items():
        path, tensors = files[shard]
        if name not in tensors:
            raise ConfigError(
                f"{path} has no tensor {name!r}, where {index.name} puts it; fetch both again"
            )
        places[name] = (path, *tensors[name])
    for shard, (path, tensors) in files.items():
        astray = [name for name in tensors if named.get(name) != shard]
        if astray:
            raise ConfigError(
                f"{path} has a tensor {astray[0]!r} that {index.name} does not put there; fetch both again"
            )
    return Weights([path for path, _ in files.values()], places)


def _tensors(path):
    """{name: (Leaf, offset in the file)} of one safetensors file, in the order of its bytes."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ConfigError(
                    f"{path} has {size:,} bytes, its header claims {length:,}; the file is cut short or "
                    "no safetensors: fetch it again"
                )
            if length > _LONGEST_HEADER:
                raise ConfigError(
                    f"{path} has a header of {length:,} bytes; expected at most {_LONGEST_HEADER:,}: "
                    "fetch it again"
                )
            header = _object(stream.read(length), path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ConfigError(f"{path} has __metadata__ that is not of strings; fetch it again")
    spans = sorted(
        (_span(path, name, entry) for name, entry in header.items()), key=lambda s: s[1:3]
    )
    end, found = 0, {}
    for name, start, stop, leaf in spans:
        if start != end:
            what = "overlaps the one before it" if start < end else "leaves a hole before it"
            raise ConfigError(
                f"{path}: tensor {name!r} begins at byte {start:,}, expected {end:,} (it {what}); fetch "
                "the file again"
            )
        found[name], end = (leaf, 8 + length + start), stop
    if end != size - 8 - length:
        raise ConfigError(
            f"{path}: its tensors end at byte {end:,} of {size - 8 - length:,}; the file is cut short or "
            "has bytes that belong to none: fetch it again"
        )
    return found


def _span(path, name, entry):
    """(name, first byte, byte after the last, Leaf) of a header's entry, checked by itself."""

    def natural(numbers):
        return isinstance(numbers, list) and all(
            type(n) is int and 0 <= n <= _LARGEST for n in numbers
        )

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ConfigError(
            f"{path}: tensor {name!r} is described by {str(entry)[:80]!r}; expected dtype, shape and "
            "data_offsets: fetch the file again"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConfigError(
            f"{path}: tensor {name!r} is of dtype {str(dtype)[:40]!r}; expected one of "
            f"{', '.join(DTYPES)}: convert the model to one of them"
        )
    if not natural(shape) or len(shape) > _MOST_AXES or not natural(offsets) or len(offsets) != 2:
        raise ConfigError(
            f"{path}: tensor {name!r} has shape {str(shape)[:80]} at {str(offsets)[:80]}; expected lists of "
            "natural numbers: fetch the file again"
        )
    start, stop = offsets
    leaf = Leaf(DTYPES[dtype], tuple(shape))
    # As the format's own checks: axes that overflow do so even beside an axis of 0.
    if math.prod(max(1, axis) for axis in shape) * leaf.dtype.itemsize > _LARGEST:
        raise ConfigError(f"{path}: tensor {name!r} has a shape that overflows, {str(shape)[:80]}; "
                          "fetch the file again")  # fmt: skip
    if stop - start != leaf.bytes:
        raise ConfigError(
            f"{path}: tensor {name!r} is {dtype}{shape}, {leaf.bytes:,} bytes, but has {stop - start:,}; "
            "fetch the file again"
        )
    return name, start, stop, leaf


def _object(data, path):
    """The JSON object in bytes; `path` for the error."""

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {twice!r} stands twice")
        return found

    try:
        found = json.loads(data.decode(), object_pairs_hook=once)
        if isinstance(found, dict):
            return found
        problem = f"it is a {type(found).__name__}"
    except (ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:160]
    raise ConfigError(f"{path} holds no JSON object where one is expected ({problem}); "
                      "fetch it again") from None  # fmt: skip


def write_weights(
    directory: str | pathlib.Path,
    leaves: dict[str, Leaf],
    read: Callable[[str], np.ndarray],
    metadata: dict[str, str] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> list[pathlib.Path]:
    """Writes tensors as safetensors, asking `read(name)` for one at a time, and returns the files.

    One file, or shards of at most `shard_bytes` (a larger tensor has one of its own) and their index.
    They lie under temporary names until the last byte of the last is written. metadata: by default
    {"format": "pt"}, which transformers expects whatever wrote the file.

    Raises ConfigError for a directory that has weights already, a tensor that `read` gives in another
    shape or dtype than announced, a dtype that the format lacks, and a disk that is full.
    """
    directory = pathlib.Path(directory)
    there = [name for name in (SINGLE, INDEX) if os.path.lexists(directory / name)]
    if there:
        raise ConfigError(f"{directory / there[0]} exists; expected a directory without weights: "
                          "remove it or choose another")  # fmt: skip
    shards = _shards(leaves, shard_bytes)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    temporary = [directory / f"{name}.tmp-{os.getpid()}" for name in names]
    metadata = {"format": "pt"} if metadata is None else metadata
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, shard in zip(temporary, shards, strict=True):
            _write_shard(path, {name: leaves[name] for name in shard}, read, metadata)
        for path, name in zip(temporary, names, strict=True):
            path.replace(directory / name)
        if len(shards) > 1:
            size = sum(leaf.bytes for leaf in leaves.values())
            files = zip(names, shards, strict=True)
            index = {
                "metadata": {"total_size": size},
                "weight_map": {name: file for file, shard in files for name in sorted(shard)},
            }
            unfinished = directory / f"{INDEX}.tmp-{os.getpid()}"
            temporary.append(unfinished)
            unfinished.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(directory / INDEX)
    except OSError as error:
        raise ConfigError(
            f"cannot write weights into {directory} ({error.strerror}); free some space or choose another "
            "directory, then start again"
        ) from error
    finally:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return [directory / name for name in names]


def _shards(leaves, limit):
    """Names of the tensors of each file, in the order given, none larger than `limit` bytes."""
    shards, size = [[]], 0
    for name, leaf in leaves.items():
        if leaf.dtype not in DTYPES.values() or name == "__metadata__":
            raise ConfigError(
                f"tensor {name!r} of dtype {leaf.dtype} has no place in safetensors; expected one of "
                f"{', '.join(DTYPES)} and another name than __metadata__"
            )
        if shards[-1] and size + leaf.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += leaf.bytes
    return shards


def _write_shard(path, leaves, read, metadata):
    """One safetensors file: tensors of wide dtypes first, so that each is aligned."""
    spelled = {dtype: name for name, dtype in DTYPES.items()}
    order = sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name))
    header, end = {"__metadata__": metadata}, 0
    for name in order:
        dtype, shape = leaves[name]
        start, end = end, end + leaves[name].bytes
        header[name] = {"dtype": spelled[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = read(name)
            if Leaf(tensor.dtype, tensor.shape) != leaves[name]:
                dtype, shape = leaves[name]
                raise ConfigError(
                    f"tensor {name!r} is {tensor.dtype}{list(tensor.shape)}, but {dtype}{list(shape)} was "
                    "announced; announce what is written"
                )
            stream.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            del tensor
        stream.flush()
        os.fsync(stream.fileno())
