"""Entries of a family's tensor table: a Hugging Face tensor and the parameters that it is made of, and the
steps between the two arrays. Applied by family.py in both directions.
"""

from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class ArrayTransform(NamedTuple):
    """Steps from our arrays to a Hugging Face tensor, in order of application; `to_native` undoes them.

    Several arrays are first joined along their last axis (GPT-2's c_attn).
    """

    transpose: bool = False  # [in, out] here, [out, in] in PyTorch
    vocab_rows: bool = False  # a row per token; ours are padded to a multiple of 128
    leading_axis: bool = False  # [n] here, [1, n] in Hugging Face
    by_head: bool = (
        False  # arrays are joined head by head (GPT-NeoX: query, key, value of head 0, ...)
    )
    heads: int = 0  # set by `Family.resolve`

    def hf_shape(self, native: list[tuple[int, ...]], vocab_size: int) -> tuple[int, ...]:
        """The tensor's shape, from the shapes of our arrays."""
        shape = (*native[0][:-1], sum(each[-1] for each in native))
        shape = shape[::-1] if self.transpose else shape
        shape = (vocab_size, *shape[1:]) if self.vocab_rows else shape
        return (1, *shape) if self.leading_axis else shape

    def to_hf(self, native: list[np.ndarray], vocab_size: int) -> np.ndarray:
        """The tensor; a view unless arrays are joined."""
        if self.by_head:
            parts = [each.reshape(*each.shape[:-1], self.heads, -1) for each in native]
            native = [np.stack(parts, axis=-2).reshape(*native[0].shape[:-1], -1)]
        array = native[0] if len(native) == 1 else np.concatenate(native, axis=-1)
        array = array.T if self.transpose else array
        array = array[:vocab_size] if self.vocab_rows else array
        return array[None] if self.leading_axis else array

    def to_native(self, hf: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Our arrays, of these shapes, padded with 0; views unless padded."""
        array = hf[0] if self.leading_axis else hf
        if self.vocab_rows:
            rows = (shapes[0][-1] if self.transpose else shapes[0][0]) - len(array)
            array = np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)])
        array = array.T if self.transpose else array
        if self.by_head:
            parts = array.reshape(*array.shape[:-1], self.heads, len(shapes), -1)
            return [parts[..., i, :].reshape(shape) for i, shape in enumerate(shapes)]
        ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
        return np.split(array, ends, axis=-1) if len(shapes) > 1 else [array]


IDENTITY = ArrayTransform()
TRANSPOSE = ArrayTransform(transpose=True)
VOCAB = ArrayTransform(vocab_rows=True)
VOCAB_TRANSPOSE = ArrayTransform(transpose=True, vocab_rows=True)  # an untied output matrix


class ParamMap(NamedTuple):
    """A Hugging Face tensor and the parameters that it is made of; `{i}` is the layer's index.

    It applies to models that have these parameters (so that biases need no condition) and whose
    config has the fields `where`.
    """

    native: str | tuple[str, ...]
    hf: str
    transform: ArrayTransform = IDENTITY
    where: dict[str, Any] = MappingProxyType({})


def dense(native: str, hf: str, **where) -> list[ParamMap]:
    """A dense layer stored as torch.nn.Linear, with a bias if the model has one."""
    kernel = ParamMap(f"{native}/kernel", f"{hf}.weight", TRANSPOSE, where)
    return [kernel, ParamMap(f"{native}/bias", f"{hf}.bias", IDENTITY, where)]


def norm(native: str, hf: str, **where) -> list[ParamMap]:
    """LayerNorm or RMSNorm."""
    scale = ParamMap(f"{native}/scale", f"{hf}.weight", where=where)
    return [scale, ParamMap(f"{native}/bias", f"{hf}.bias", where=where)]


def attention(native: str, hf: str, *names: str) -> list[ParamMap]:
    """The dense layers of attention; `names` are query, key, value and output below `hf`."""
    pairs = zip(("query", "key", "value", "out"), names, strict=True)
    return [each for ours, name in pairs for each in dense(f"{native}/{ours}", f"{hf}.{name}")]


class ResolvedParam(NamedTuple):
    """A ParamMap applied to one tensor of one model."""

    native: tuple[str, ...]
    hf: str
    transform: ArrayTransform
