"""Weights of other people: what is whole is read to the bit, what is torn or hostile is refused.

The safetensors package is the independent reference; files are also altered byte by byte.
"""

import json
import os
import struct

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


def tensors(seed=0):
    """Some of every dtype, scalars and empty ones too."""
    rng = np.random.default_rng(seed)
    found = {
        f"{name}.{shape}": rng.integers(0, 2, shape).astype(dtype)
        for name, dtype in DTYPES.items()
        for shape in [(), (3,), (2, 3), (0, 4)]
    }
    found["noise"] = rng.normal(size=(5, 7)).astype(np.float32)
    found["halves"] = rng.normal(size=(9,)).astype(ml_dtypes.bfloat16)
    return found


def write(directory, found, **how):
    leaves = {name: Leaf(value.dtype, value.shape) for name, value in found.items()}
    return write_weights(directory, leaves, found.__getitem__, **how)


def same(weights, found):
    assert weights.leaves.keys() == found.keys()
    for name, value in found.items():
        read = weights.read(name)
        assert weights.leaves[name] == (value.dtype, value.shape) == (read.dtype, read.shape)
        assert read.tobytes() == value.tobytes() and not read.flags.writeable
    return True


def crafted(path, header, data=b"", length=None):
    """A file of that header, an object or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path.parent


def entry(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def test_what_is_written_is_read_to_the_bit_and_by_the_package_too(tmp_path):
    found = tensors()
    files = write(tmp_path / "new", found)
    assert [file.name for file in files] == [SINGLE] == os.listdir(tmp_path / "new")
    assert same(open_weights(tmp_path / "new"), found)
    plain = {name: value for name, value in found.items() if value.dtype != ml_dtypes.bfloat16}
    (tmp_path / "plain").mkdir()
    safetensors.numpy.save_file(plain, tmp_path / "plain" / SINGLE)
    assert same(open_weights(tmp_path / "plain"), plain)
    write(tmp_path / "ours", plain)
    theirs = safetensors.numpy.load_file(tmp_path / "ours" / SINGLE)
    assert all(theirs[name].tobytes() == value.tobytes() for name, value in plain.items())


@pytest.mark.parametrize("limit", [1, 40, 200])
def test_shards_hold_at_most_their_size_and_an_index_says_where(tmp_path, limit):
    found = tensors()
    files = write(tmp_path, found, shard_bytes=limit)
    assert len(files) > 1 and sorted(os.listdir(tmp_path)) == sorted(
        [f.name for f in files] + [INDEX]
    )
    assert same(open_weights(tmp_path), dict(found))
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    for file in files:
        inside_it = [
            found[n].nbytes for n, shard in index["weight_map"].items() if shard == file.name
        ]
        assert sum(inside_it) <= limit or sum(n > 0 for n in inside_it) == 1
    with safetensors.safe_open(files[0], "numpy") as shard:
        assert shard.metadata() == {"format": "pt"}


def test_tensors_are_asked_for_one_at_a_time_and_lie_aligned(tmp_path):
    found = {
        "bytes": np.ones(3, np.uint8),
        "wide": np.ones(2),
        "table": np.ones((2, 2), np.float32),
    }
    asked = []
    leaves = {name: Leaf(value.dtype, value.shape) for name, value in found.items()}
    write_weights(tmp_path, leaves, lambda name: asked.append(name) or found[name])
    assert sorted(asked) == sorted(found)
    weights = open_weights(tmp_path)
    assert all(weights.read(name).flags.aligned for name in found)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    leaves = {"a": Leaf(F32, (2,)), "b": Leaf(F32, (3,))}
    wrong = {"a": np.zeros(2, np.float32), "b": np.zeros(3)}
    with pytest.raises(ConfigError, match=r"'b' is float64\[3\], but float32\[3\] was announced"):
        write_weights(tmp_path, leaves, wrong.__getitem__, shard_bytes=8)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigError, match="complex64 has no place in safetensors"):
        write_weights(tmp_path, {"a": Leaf(np.dtype("c8"), ())}, wrong.__getitem__)
    write(tmp_path, {"a": wrong["a"]})
    with pytest.raises(ConfigError, match="expected a directory without weights"):
        write(tmp_path, {"a": wrong["a"]})


GOOD = {"a": entry(0, 8), "b": entry(8, 16)}
TORN = {
    "no header": (b"", None, "no JSON object"),
    "header beyond the file": (GOOD, 10_000, r"its header claims 10,000"),
    "header beyond any file": (GOOD, 2**64 - 1, "its header claims 18,446,744,073,709,551,615"),
    "header cut in the middle": (GOOD, 20, "no JSON object"),
    "not an object": (b"[1, 2]  ", None, "it is a list"),
    "not UTF-8": (b'{"\xff": 1}', None, "no JSON object"),
    "nested too deep": (b'{"a":' * 200_000, None, "no JSON object"),
    "a number of too many digits": (b'{"a":' + b"9" * 9000 + b"}", None, "no JSON object"),
    "duplicate keys": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32",'
                       b'"shape":[2],"data_offsets":[8,16]}}', None, "the key 'a' stands twice"),
    "a key twice within a tensor": (b'{"a":{"dtype":"F32","dtype":"F64"}}', None, "'dtype' stands twice"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, None, "overlaps the one before it"),
    "the same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, None, "overlaps the one before"),
    "hole": ({"a": entry(0, 8), "b": entry(12, 20)}, None, "leaves a hole before it"),
    "hole at the start": ({"a": entry(8, 16)}, None, "leaves a hole before it"),
    "bytes of no tensor": ({"a": entry(0, 8)}, None, "end at byte 8 of 16"),
    "beyond the end": ({"a": entry(0, 8), "b": entry(8, 24, (4,))}, None, "end at byte 24 of 16"),
    "no tensor at all": ({}, None, "end at byte 0 of 16"),
    "shape against bytes": ({"a": entry(0, 16, (3,))}, None, "12 bytes, but has 16"),
    "backwards": ({"a": entry(16, 0, (4,))}, None, "but has -16"),
    "overflow": ({"a": entry(0, 16, (2**40, 2**40))}, None, "overflows"),
    "overflow to the right size": ({"a": entry(0, 16, (2**62, 2, 2, 4))}, None, "overflows"),
    "overflow beside nothing": ({"a": entry(0, 0, (2**62, 2**62, 0))}, None, "overflows"),
    "one axis that overflows": ({"a": entry(0, 0, (2**64, 0))}, None, "expected lists of natural"),
    "too many axes": ({"a": entry(0, 4, (1,) * 65)}, None, "expected lists of natural"),
    "negative": ({"a": entry(0, 16, (-2, -2))}, None, "expected lists of natural"),
    "a fraction": ({"a": entry(0, 16, (4.0,))}, None, "expected lists of natural"),
    "a truth": ({"a": entry(0, 16, (4, True))}, None, "expected lists of natural"),
    "three offsets": ({"a": entry(0, 16, (4,)) | {"data_offsets": [0, 8, 16]}}, None, "natural"),
    "a dtype that is none": ({"a": entry(0, 16, dtype="F33")}, None, "of dtype 'F33'"),
    "a dtype that is a list": ({"a": entry(0, 16, dtype=["F32"])}, None, "of dtype"),
    "a tensor that is a number": ({"a": 1}, None, "expected dtype, shape and data_offsets"),
    "a tensor without a shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, None, "expected dty"),
    "metadata of numbers": ({"__metadata__": {"a": 1}} | GOOD, None, "not of strings"),
}  # fmt: skip


@pytest.mark.parametrize("what", TORN)
def test_a_torn_or_hostile_file_is_refused_in_one_line(tmp_path, what):
    header, length, message = TORN[what]
    crafted(tmp_path / SINGLE, header, b"\0" * 16 if header != b"" else b"", length)
    with pytest.raises(ConfigError, match=message) as caught:
        open_weights(tmp_path)
    assert str(tmp_path / SINGLE) in str(caught.value)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_the_good_ones_beside_them_are_read(tmp_path):
    crafted(tmp_path / SINGLE, GOOD, b"\0" * 16)
    assert list(open_weights(tmp_path).leaves) == ["a", "b"]
    crafted(tmp_path / SINGLE, {"a": entry(0, 0, (2**40, 0)), "b": entry(0, 16, (4,))}, b"\0" * 16)
    assert open_weights(tmp_path).read("a").shape == (2**40, 0)
    crafted(tmp_path / SINGLE, b'{"__metadata__":{}}', b"")
    assert open_weights(tmp_path).leaves == {}
    odd = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} '  # a header of no multiple of 4
    crafted(tmp_path / SINGLE, odd, np.array([1.5, 2.5], "<f4").tobytes())
    assert open_weights(tmp_path).read("a").tolist() == [1.5, 2.5]


def test_a_short_file_and_what_is_no_file(tmp_path):
    for data in (b"", b"\1\0\0"):
        (tmp_path / SINGLE).write_bytes(data)
        with pytest.raises(ConfigError, match="cut short"):
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
    os.mkfifo(tmp_path / name)  # opening it would wait for ever
    with pytest.raises(
        ConfigError, match="never unpickled.*make safetensors of it where you trust"
    ):
        open_weights(tmp_path)


def shards(directory, changes=lambda index: None):
    """Two shards and an index, which `changes` alters."""
    crafted(directory / "one.safetensors", {"a": entry(0, 8)}, b"\0" * 8)
    crafted(directory / "two.safetensors", {"b": entry(0, 8)}, b"\0" * 8)
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    changes(index)
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
        ({"b": "three.safetensors"}, "three.safetensors is missing, which"),
        ({"b": "link.safetensors"}, "is a link to .*outside of its directory"),
        ({"b": "loop.safetensors"}, "leads nowhere|not a file"),
        ({"b": "two.bin"}, "never unpickled, but model.safetensors.index.json names it"),
        ({"b": "one.safetensors"}, "has no tensor 'b', where"),
        ({"c": "two.safetensors"}, "has no tensor 'c', where"),
    ],
)  # fmt: skip
def test_an_index_that_leaves_its_directory_or_lies_is_refused(tmp_path, changed, message):
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    shards(outside)
    (home / "link.safetensors").symlink_to(outside / "two.safetensors")
    (home / "loop.safetensors").symlink_to(home / "loop.safetensors")
    (home / "two.bin").write_bytes(b"")
    shards(home, lambda index: index["weight_map"].update(changed))
    with pytest.raises(ConfigError, match=message):
        open_weights(home)


def test_an_index_is_an_object_of_names_and_leaves_no_tensor_out(tmp_path):
    assert list(open_weights(shards(tmp_path)).leaves) == ["a", "b"]
    for weight_map in ({}, [], "one.safetensors", None):
        shards(tmp_path, lambda index, w=weight_map: index.update(weight_map=w))
        with pytest.raises(ConfigError, match="has no weight_map"):
            open_weights(tmp_path)
    shards(tmp_path)
    crafted(tmp_path / "two.safetensors", GOOD, b"\0" * 16)
    with pytest.raises(ConfigError, match="has a tensor 'a' that"):
        open_weights(tmp_path)
    (tmp_path / INDEX).write_text(
        '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}'
    )
    with pytest.raises(ConfigError, match="the key 'a' stands twice"):
        open_weights(tmp_path)


def test_links_of_a_hub_cache_are_followed_and_others_are_not(tmp_path):
    cache = tmp_path / "models--a--b"
    home, blobs = cache / "snapshots" / "0123", cache / "blobs"
    home.mkdir(parents=True)
    blobs.mkdir()
    crafted(blobs / "abcd", GOOD, b"\0" * 16)
    (home / SINGLE).symlink_to("../../blobs/abcd")
    assert list(open_weights(home).leaves) == ["a", "b"]
    (cache / "refs").write_bytes(b"")
    (home / "tokenizer.json").symlink_to("../../refs")
    with pytest.raises(ConfigError, match="outside of its directory"):
        inside(home, "tokenizer.json")
    assert inside(home, "vocab.txt") is None


@hypothesis.given(data=st.data())
@property_test
def test_an_altered_file_is_refused_or_means_what_the_package_says(data, tmp_path_factory):
    found = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint8)}
    whole = bytearray(safetensors.numpy.save(found, {"format": "pt"}))
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
    theirs = safetensors.numpy.load(bytes(whole))
    assert theirs.keys() == weights.leaves.keys()
    for name, value in theirs.items():
        assert weights.read(name).tobytes() == value.tobytes()
