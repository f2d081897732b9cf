"""The tensors of a directory against those that its class has: which is which, and what does not fit.

Called by convert.py before anything is written. Tensors that are stored under another name of the same
tensor are found; tensors of heads that the class does not have are left out.
"""

import re

import numpy as np

from huggingface.family import Family, ResolvedParam
from huggingface.weights import Weights
from models.config import ModelConfig
from training.config import ConfigError

# Buffers of any family, which are computed from the config.
BUFFERS = (
    r"(.*\.)?position_ids", r"(.*embeddings\.)token_type_ids", r"(.*\.)?version",
    r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)",
    r"(.*\.)?embed_positions\._float_tensor",
)  # fmt: skip


def named(family: Family, weights: Weights, source) -> tuple[Family, dict[str, str]]:
    """(the family with the names of the directory, {current name: name in the files}).

    Raises ConfigError, naming the prefix, for names that begin with one of another program."""
    own = family.prefix
    if not any(tensor.startswith(family.prefix) for tensor in weights.leaves):
        family = family.with_prefix("")
    stored = {family.current_name(tensor): tensor for tensor in weights.leaves}
    table = next(p.hf for p in family.params if p.native == "embed/tokens/embedding")
    names = [table, *(copy for copy, original in family.tied.items() if original == table)]
    if not any(name in stored for name in names):
        for name in stored:
            prefix = name.removesuffix(table).removesuffix(own)
            if name.endswith(f".{table}") and sum(n.startswith(prefix) for n in stored) > 1:
                raise ConfigError(
                    f"the tensors of {source} begin with {prefix!r}, which a wrapper added; save the "
                    'model without it, or rename them: python -c "from safetensors.torch import '
                    "load_file as l, save_file as s; F='model.safetensors'; s({k.removeprefix("
                    f"{prefix!r}): v for k, v in l(F).items()}}, F, {{'format': 'pt'}})\""
                )
    return family, stored


def is_tied(family: Family, model: ModelConfig, weights: Weights, stored: dict) -> bool:
    """Whether the output embedding is the token embedding, as transformers decides it: not if the
    directory has an output matrix that differs from the token table; otherwise as the config says."""
    output, original = output_names(family)
    if output not in stored or original not in stored:
        return model.tie_word_embeddings or family.ties_by_tensors
    if equal(weights, stored[output], stored[original]):
        return model.tie_word_embeddings or family.ties_by_tensors
    return False


def output_names(family: Family) -> tuple[str, str]:
    """(tensor of an untied output embedding, the token table it may be a copy of); '' without one."""
    output = next((each.hf for each in family.params if each.native == "heads/lm/kernel"), "")
    return output, family.tied.get(output, "")


def share(family: Family, stored: dict[str, str], tied: bool) -> dict[str, str]:
    """`stored`, with each tensor that is stored only under the name of its copy under its own name."""
    output, _ = output_names(family)
    stored = dict(stored)
    copies = sorted(family.tied.items(), key=lambda each: each[0] == output)
    for copy, original in copies:
        if original not in stored and copy in stored and (tied or copy != output):
            stored[original] = stored.pop(copy)
    return stored


def check(
    family: Family,
    model: ModelConfig,
    tree: dict[str, tuple],
    params: list[ResolvedParam],
    weights: Weights,
    stored: dict[str, str],
    source,
    *,
    others: list[str],
    dtypes: dict[str, np.dtype],
    sizes: str,
) -> list[str]:
    """Names of the tensors that are left out: those of heads that the class does not have.

    Args:
      tree: {path: shape} of our parameters.
      params: the tensors of the class.
      others: names of the tensors of the family's other heads.
      dtypes: those that a tensor may have.
      sizes: describes the keys of config.json that decide the shapes.

    Raises ConfigError unless the directory has the tensors of `params`, with their shapes.
    """
    expected = {
        p.hf: p.transform.hf_shape([tree[path] for path in p.native], model.vocab_size)
        for p in params
    }
    bases = {name.partition(".")[0] for name in expected}
    copies = {a: b for a, b in family.tied.items() if a in stored and a not in expected}
    output, table = output_names(family)
    if output in copies and table in stored and not equal(weights, stored[output], stored[table]):
        del copies[output]  # the output of a head that the class does not have
    expected |= {
        copy: expected[original] for copy, original in copies.items() if original in expected
    }
    problems = [
        f"missing {name}" for name in expected if name not in stored and name not in family.optional
    ]
    left_out, remedy = [], "download the model again"
    for name, tensor in stored.items():
        leaf = weights.leaves[tensor]
        if name not in expected:
            if family.is_ignored(name) or any(re.fullmatch(each, name) for each in BUFFERS):
                continue
            if name in others or name.partition(".")[0] not in bases:
                left_out.append(tensor)
            else:
                problems.append(f"unexpected {tensor}")
        elif leaf.shape != expected[name]:
            problems.append(f"{tensor} is {list(leaf.shape)}, expected {list(expected[name])}")
        elif str(leaf.dtype) not in dtypes:
            problems.append(f"{tensor} is {leaf.dtype}, expected one of {', '.join(dtypes)}")
            remedy = "load it with transformers in one of these and save_pretrained"
    for name, array in family.constants(model).items():
        if name.endswith("inv_freq") and name in stored:
            found = weights.read(stored[name]).astype(float)
            if found.shape != array.shape or not np.allclose(found, array, rtol=0.01):
                problems.append(f"{stored[name]} differs from the frequencies of rope_theta")
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ConfigError(
            f"the tensors in {source} do not fit its config.json: {problems[0]}{more} "
            f"({sizes}); {remedy}"
        )
    differs = [
        f"{stored[copy]} differs from {stored[original]}, of which it should be a copy"
        for copy, original in copies.items()
        if original in expected and not equal(weights, stored[copy], stored[original])
    ]
    if differs:
        raise ConfigError(
            f"the tensors in {source} do not fit its config.json: {differs[0]}; download the model again"
        )
    return left_out


def equal(weights: Weights, a: str, b: str) -> bool:
    """Whether two tensors have the same bits."""
    if weights.leaves[a] != weights.leaves[b]:
        return False
    bits = f"u{weights.leaves[a].dtype.itemsize}"
    return np.array_equal(weights.read(a).view(bits), weights.read(b).view(bits))


def check_finite(array: np.ndarray, name: str, source) -> None:
    """Raises ConfigError naming the tensor if a float32 array holds NaN or infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # one pass, without an array of booleans
            return
    if count := array.size - np.count_nonzero(np.isfinite(array)):
        raise ConfigError(
            f"tensor {name} of {source} holds NaN, infinity or numbers beyond float32 ({count:,} of "
            f"{array.size:,}): the file is damaged or its training diverged; download it again, or take "
            "an earlier checkpoint"
        )
