"""Safetensors directories: valid files are read bit for bit, corrupt or malicious ones are refused.

Files are written by our code and by the safetensors package, and altered byte by byte.
"""

import json
import os
import pickle
import resource
import stat
import struct
import weakref

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from huggingface.weights import DTYPES, INDEX, SINGLE, Leaf, inside, open_weights, write_weights
from training.config import ConfigError

F32 = np.dtype(np.float32)
property_test = hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, database=None
)


def make_tensors(seed=0):
    """Tensors of every dtype, with scalars and empty ones."""
    rng = np.random.default_rng(seed)
    found = {
        f"{name}.{shape}": np.asarray(rng.integers(0, 2, shape)).astype(dtype)
        for name, dtype in DTYPES.items()
        for shape in [(), (3,), (2, 3), (0, 4)]
    }
    found["float32"] = rng.normal(size=(5, 7)).astype(np.float32)
    found["bfloat16"] = rng.normal(size=(9,)).astype(ml_dtypes.bfloat16)
    return found


def write(directory, tensors, **options):
    leaves = {name: Leaf(value.dtype, value.shape) for name, value in tensors.items()}
    return write_weights(directory, leaves, tensors.__getitem__, **options)


def assert_same(weights, tensors):
    assert weights.leaves.keys() == tensors.keys()
    for name, value in tensors.items():
        read = weights.read(name)
        assert weights.leaves[name] == (value.dtype, value.shape) == (read.dtype, read.shape)
        assert read.tobytes() == value.tobytes()


def write_raw(path, header, data=b"", length=None):
    """Writes a file with a header given as an object or as bytes, and returns its directory."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path.parent


def entry(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_written_tensors_are_read_bit_for_bit_here_and_by_the_package(tmp_path):
    tensors = make_tensors()
    files = write(tmp_path / "new", tensors)
    assert [file.name for file in files] == [SINGLE] == os.listdir(tmp_path / "new")
    assert_same(open_weights(tmp_path / "new"), tensors)
    (tmp_path / "package").mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / "package" / SINGLE)
    assert_same(open_weights(tmp_path / "package"), tensors)
    loaded = safetensors.numpy.load_file(tmp_path / "new" / SINGLE)
    assert all(loaded[name].tobytes() == value.tobytes() for name, value in tensors.items())


def test_transposed_and_sliced_tensors_are_written_in_row_order(tmp_path):
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {"transposed": table.T, "columns": table[:, 1:3], "reversed": table[::-1]}
    write(tmp_path, tensors)
    assert_same(open_weights(tmp_path), tensors)


@pytest.mark.parametrize("limit", [1, 40, 200])
def test_shards_have_at_most_their_size_and_an_index(tmp_path, limit):
    tensors = make_tensors()
    files = write(tmp_path, tensors, max_shard_size=limit)
    names = [file.name for file in files]
    assert len(files) > 1 and sorted(os.listdir(tmp_path)) == sorted([*names, INDEX])
    assert_same(open_weights(tmp_path), tensors)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    for file in files:
        sizes = [
            tensors[n].nbytes for n, shard in index["weight_map"].items() if shard == file.name
        ]
        assert sum(sizes) <= limit or sum(n > 0 for n in sizes) == 1
    with safetensors.safe_open(files[0], "numpy") as shard:
        assert shard.metadata() == {"format": "pt"}


def test_tensors_are_read_layer_by_layer_and_only_one_shard_is_in_memory(tmp_path):
    alive, most, order = set(), 0, []

    def read(name):
        nonlocal most
        tensor = np.zeros(4, np.float32)
        alive.add(name)
        order.append(name)
        most = max(most, len(alive))
        weakref.finalize(tensor, alive.remove, name)
        return tensor

    leaves = {f"layers.{n}.{name}": Leaf(F32, (4,)) for name in "abcd" for n in range(5)}
    write_weights(tmp_path, leaves, read, max_shard_size=64)
    assert most == 4 and not alive
    layers = [name.split(".")[1] for name in order]
    assert layers == sorted(layers)  # a layer is read as a whole


def test_files_are_readable_by_others_as_the_umask_allows(tmp_path):
    (tmp_path / "plain").touch()
    files = write(tmp_path / "new", {"a": np.zeros(2, np.float32)})
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [expected]


def test_a_failed_write_leaves_no_file(tmp_path):
    leaves = {"a": Leaf(F32, (2,)), "b": Leaf(F32, (3,))}
    wrong = {"a": np.zeros(2, np.float32), "b": np.zeros(3)}
    with pytest.raises(ConfigError, match=r"'b' is float64\[3\]; expected float32\[3\]"):
        write_weights(tmp_path, leaves, wrong.__getitem__, max_shard_size=8)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigError, match="cannot write weights"):
        write(tmp_path, {"a": np.zeros(2, np.complex128)})
    assert os.listdir(tmp_path) == []
    write(tmp_path, {"a": wrong["a"]})
    with pytest.raises(ConfigError, match="expected a directory without weights"):
        write(tmp_path, {"a": wrong["a"]})


def test_a_disk_that_is_full_is_reported_in_one_line(tmp_path):
    tensors = {"a": np.zeros(2, np.float32), "b": np.zeros(10_000, np.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ConfigError, match="cannot write weights .*free disk space") as caught:
            write(tmp_path, tensors, max_shard_size=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


VALID = {"a": entry(0, 8), "b": entry(8, 16)}
CORRUPT = {
    "no header": (b"", None),
    "header beyond the file": (VALID, 10_000),
    "header beyond any file": (VALID, 2**64 - 1),
    "header cut in the middle": (VALID, 20),
    "not an object": (b"[1, 2]  ", None),
    "not UTF-8": (b'{"\xff": 1}', None),
    "nested too deep": (b'{"a":' * 200_000, None),
    "a number of too many digits": (b'{"a":' + b"9" * 9000 + b"}", None),
    "duplicate keys": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32",'
                       b'"shape":[2],"data_offsets":[8,16]}}', None),
    "a key twice within a tensor": (b'{"a":{"dtype":"F32","dtype":"F64"}}', None),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, None),
    "the same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, None),
    "a name of two lines": ({"a\nb": entry(8, 16)}, None),
    "hole": ({"a": entry(0, 8), "b": entry(12, 20)}, None),
    "hole at the start": ({"a": entry(8, 16)}, None),
    "bytes of no tensor": ({"a": entry(0, 8)}, None),
    "beyond the end": ({"a": entry(0, 8), "b": entry(8, 24, (4,))}, None),
    "no tensor at all": ({}, None),
    "shape against bytes": ({"a": entry(0, 16, (3,))}, None),
    "backwards": ({"a": entry(16, 0, (4,))}, None),
    "overflow": ({"a": entry(0, 16, (2**40, 2**40))}, None),
    "overflow to the right size": ({"a": entry(0, 16, (2**62, 2, 2, 4))}, None),
    "overflow next to an axis of 0": ({"a": entry(0, 0, (2**62, 2**62, 0))}, None),
    "one axis that overflows": ({"a": entry(0, 0, (2**64, 0))}, None),
    "too many axes": ({"a": entry(0, 4, (1,) * 65)}, None),
    "negative": ({"a": entry(0, 16, (-2, -2))}, None),
    "a fraction": ({"a": entry(0, 16, (4.0,))}, None),
    "a boolean": ({"a": entry(0, 16, (4, True))}, None),
    "three offsets": ({"a": entry(0, 16, (4,)) | {"data_offsets": [0, 8, 16]}}, None),
    "an unknown dtype": ({"a": entry(0, 16, dtype="F33")}, None),
    "a dtype that is a list": ({"a": entry(0, 16, dtype=["F32"])}, None),
    "a tensor that is a number": ({"a": 1}, None),
    "a tensor without a shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, None),
    "metadata of numbers": ({"__metadata__": {"a": 1}} | VALID, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_or_malicious_file_is_refused_in_one_line(tmp_path, case):
    header, length = CORRUPT[case]
    write_raw(tmp_path / SINGLE, header, b"\0" * 16 if header != b"" else b"", length)
    with pytest.raises(ConfigError, match="is not safetensors .*download it again") as caught:
        open_weights(tmp_path)
    assert str(tmp_path / SINGLE) in str(caught.value)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_a_dtype_that_numpy_lacks_is_named(tmp_path):
    write_raw(tmp_path / SINGLE, {"a": entry(0, 16, (16,), "F8_E4M3")}, b"\0" * 16)
    with pytest.raises(ConfigError, match="tensor 'a' has dtype F8_E4M3; convert the model to one"):
        open_weights(tmp_path)


def test_unusual_but_valid_files_are_read(tmp_path):
    write_raw(tmp_path / SINGLE, VALID, b"\0" * 16)
    assert list(open_weights(tmp_path).leaves) == ["a", "b"]
    write_raw(
        tmp_path / SINGLE, {"a": entry(0, 0, (2**40, 0)), "b": entry(0, 16, (4,))}, b"\0" * 16
    )
    assert open_weights(tmp_path).read("a").shape == (2**40, 0)
    write_raw(tmp_path / SINGLE, b'{"__metadata__":{}}', b"")
    assert open_weights(tmp_path).leaves == {}
    odd = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '  # not a multiple of 4 bytes
    write_raw(tmp_path / SINGLE, odd, np.array([1.5, 2.5], "<f4").tobytes())
    assert open_weights(tmp_path).read("a").tolist() == [1.5, 2.5]


def test_short_and_missing_files_are_refused(tmp_path):
    for data in (b"", b"\1\0\0"):
        (tmp_path / SINGLE).write_bytes(data)
        with pytest.raises(ConfigError, match="is not safetensors"):
            open_weights(tmp_path)
    (tmp_path / SINGLE).unlink()
    os.mkfifo(tmp_path / SINGLE)
    with pytest.raises(ConfigError, match="expected a regular file"):
        open_weights(tmp_path)
    with pytest.raises(ConfigError, match="is not a directory"):
        open_weights(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"neither {SINGLE} nor"):
        open_weights(tmp_path / "empty")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)  # opening it would block forever
    with pytest.raises(ConfigError, match=f"{name} is never unpickled: .*convert it") as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value)


def write_shards(directory, change=lambda index: None):
    """Writes two shards and an index that `change` alters."""
    write_raw(directory / "one.safetensors", {"a": entry(0, 8)}, b"\0" * 8)
    write_raw(directory / "two.safetensors", {"b": entry(0, 8)}, b"\0" * 8)
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    change(index)
    (directory / INDEX).write_text(json.dumps(index))
    return directory


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b": "../outside/two.safetensors"}, "expected the name of a file in that directory"),
        ({"b": "../two.safetensors"}, "expected the name of a file in that directory"),
        ({"b": "/etc/passwd"}, "expected the name of a file in that directory"),
        ({"b": "sub/two.safetensors"}, "expected the name of a file in that directory"),
        ({"b": "..\\two.safetensors"}, "expected the name of a file in that directory"),
        ({"b": ".."}, "expected the name of a file in that directory"),
        ({"b": "two.safetensors\0.txt"}, "expected the name of a file in that directory"),
        ({"b": ""}, "expected the name of a file in that directory"),
        ({"b": 3}, "expected the name of a file in that directory"),
        ({"b": ["two.safetensors"]}, "expected the name of a file in that directory"),
        ({"b": "three.safetensors"}, "three.safetensors is missing but"),
        ({"b": "link.safetensors"}, "is a link to .*outside of its directory"),
        ({"b": "cycle.safetensors"}, "is not a file"),
        ({"b": "two.bin"}, "two.bin is not safetensors"),
        ({"b": "one.safetensors"}, "disagree about tensor 'b'"),
        ({"c": "two.safetensors"}, "disagree about tensor 'c'"),
    ],
)  # fmt: skip
def test_an_index_with_unsafe_paths_or_wrong_names_is_refused(tmp_path, changed, message):
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    write_shards(outside)
    (home / "link.safetensors").symlink_to(outside / "two.safetensors")
    (home / "cycle.safetensors").symlink_to(home / "cycle.safetensors")
    (home / "two.bin").write_bytes(pickle.dumps({"b": 0}))
    write_shards(home, lambda index: index["weight_map"].update(changed))
    with pytest.raises(ConfigError, match=message) as caught:
        open_weights(home)
    assert "\n" not in str(caught.value)


def test_an_index_is_an_object_that_lists_every_tensor(tmp_path):
    assert list(open_weights(write_shards(tmp_path)).leaves) == ["a", "b"]
    for weight_map in ({}, [], "one.safetensors", None):
        write_shards(tmp_path, lambda index, w=weight_map: index.update(weight_map=w))
        with pytest.raises(ConfigError, match="has no weight_map"):
            open_weights(tmp_path)
    write_shards(tmp_path)
    write_raw(tmp_path / "two.safetensors", VALID, b"\0" * 16)
    with pytest.raises(ConfigError, match="disagree about tensor 'a'"):
        open_weights(tmp_path)
    (tmp_path / INDEX).write_text(
        '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'
    )
    with pytest.raises(ConfigError, match="the key 'a' appears twice"):
        open_weights(tmp_path)
    for text in ("[" * 200_000, '{"weight_map": ', "[1]", "\xff"):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(ConfigError, match="is not a JSON object") as caught:
            open_weights(tmp_path)
        assert "\n" not in str(caught.value)


def test_links_of_a_hub_cache_are_followed_and_others_are_not(tmp_path):
    cache = tmp_path / "models--a--b"
    home, blobs = cache / "snapshots" / "0123", cache / "blobs"
    home.mkdir(parents=True)
    blobs.mkdir()
    write_raw(blobs / "abcd", VALID, b"\0" * 16)
    (home / SINGLE).symlink_to("../../blobs/abcd")
    assert list(open_weights(home).leaves) == ["a", "b"]
    (cache / "refs").write_bytes(b"")
    (home / "tokenizer.json").symlink_to("../../refs")
    with pytest.raises(ConfigError, match="outside of its directory"):
        inside(home, "tokenizer.json")
    assert inside(home, "vocab.txt") is None


@hypothesis.given(data=st.data())
@property_test
def test_an_altered_file_is_refused_or_read_as_the_package_reads_it(data, tmp_path_factory):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint8)}
    whole = bytearray(safetensors.numpy.save(tensors, {"format": "pt"}))
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "digit"]))
        place = data.draw(st.integers(0, max(0, len(whole) - 1)))
        if kind == "cut":
            del whole[place : place + data.draw(st.integers(1, 9))]
        elif kind == "insert":
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "flip" and whole:
            whole[place] ^= data.draw(st.integers(1, 255))
        else:
            digits = [i for i, byte in enumerate(whole) if chr(byte).isdigit()]
            if digits:
                whole[data.draw(st.sampled_from(digits))] = ord(
                    data.draw(st.sampled_from("0123456789"))
                )
    directory = tmp_path_factory.mktemp("altered")
    (directory / SINGLE).write_bytes(whole)
    try:
        weights = open_weights(directory)
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    expected = safetensors.numpy.load(bytes(whole))
    assert expected.keys() == weights.leaves.keys()
    for name, value in expected.items():
        assert weights.leaves[name] == (value.dtype, value.shape)
        assert weights.read(name).tobytes() == value.tobytes()
