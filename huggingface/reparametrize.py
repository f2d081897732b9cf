"""Reparametrizes models: expresses parts that a family lacks by parts that it has, with equal outputs.
Asked by export_class.py. Logits change by about 1e-5 of their size.

Output biases: after a LayerNorm of scale g and bias c, each state is h = g n + c with sum(n) = 0. So
u h = 1 for u = 1 / (g sum(c / g)), and logits W h + b are (W + b u^T) h. The bias c is shifted first,
because its sum may be 0. A tied output matrix becomes an untied one.

The mean and standard deviation with which a regression's output z is z * std + mean are multiplied into
its output layer.

An absent transform of an encoder's LM head, or an absent pooler, becomes an identity, because for a small
e gelu(e x) is e x / 2 and tanh(e x) is e x.
"""

import dataclasses
import functools

import numpy as np

from huggingface.run_contents import RunContents
from models.config import ModelConfig
from training.checkpoint import LazyArray
from training.config import ConfigError

TABLE, LM = "embed/tokens/embedding", "heads/lm"
GELU_SCALE, TANH_SCALE = 2.0**-16, 2.0**-10


def _ends_with_layer_norm(model, architecture):
    """Whether the output layers of a model read a LayerNorm with a bias, and nothing else."""
    return (
        model.architecture == architecture
        and (model.norm, model.norm_position, model.use_bias) == ("layernorm", "pre", True)
        and not (model.lm_head_transform or model.has_factorized_embeddings)
    )


def _adds_transform(model):
    return _ends_with_layer_norm(model, "encoder") and model.activation.startswith("gelu")


def _adds_pooler(task, needs):
    wanted = needs.get("pooler_activation") == "tanh" and not needs.get("pooler_norm")
    return bool(task) and wanted and not task["pooler"]


def _folds_units(model, task, needs):
    """Whether the units of a regression become a part of its output layer, which needs a bias then."""
    has_bias = needs.get("head_bias") is not False or _ends_with_layer_norm(model, "decoder")
    return "standardize" in needs and bool(task.get("standardize")) and has_bias


def expressible_model(model: ModelConfig) -> ModelConfig:
    """The model as it is exported: a decoder without output biases, an encoder with BERT's LM head."""
    if model.lm_head_bias and _ends_with_layer_norm(model, "decoder"):
        return dataclasses.replace(model, lm_head_bias=False, tie_word_embeddings=False)
    return dataclasses.replace(model, lm_head_transform=True) if _adds_transform(model) else model


def expressible_task(model: ModelConfig, task: dict, needs: dict) -> dict:
    """The fields of a task's config as they are exported to a family whose head has `needs`."""
    if _folds_units(model, task, needs):
        task = task | {"standardize": False, "head_bias": True}
    if task and needs.get("head_bias") is False and _ends_with_layer_norm(model, "decoder"):
        task = task | {"head_bias": False}
    if _adds_pooler(task, needs):
        task = task | {"pooler": True, "pooler_activation": "tanh"}
    return task


def expressible(contents: RunContents, head: str, task: dict, needs: dict) -> RunContents:
    """The run as it is exported to a family whose head has `needs`.

    Args:
      head: the task head of the run, '' without one.
      task: the fields of its task's config.

    Raises ConfigError for a final norm with a scale near 0.
    """
    arrays, model = dict(contents.arrays), contents.model_config
    stack, output = f"{model.architecture}/final_norm", f"heads/{head}/output"
    if _folds_units(model, task, needs):
        arrays = _fold_units(arrays, f"heads/{head}/units", output)
    outputs = (output, LM) if needs.get("head_bias") is False else (LM,)
    layers = {f"{name}/bias": f"{name}/kernel" for name in outputs if f"{name}/bias" in arrays}
    if layers and _ends_with_layer_norm(model, "decoder"):
        arrays = _fold_biases(arrays, *_read_norm(contents, stack), stack, layers)
    if _adds_pooler(task, needs):
        arrays |= _identity_pooler(model.emb_dim, arrays[f"{output}/kernel"], f"heads/{head}")
    if f"{LM}/bias" in arrays and _adds_transform(model):
        arrays |= _identity_transform(*_read_norm(contents, stack), model.norm_epsilon)
    return dataclasses.replace(contents, arrays=arrays, model_config=expressible_model(model))


def _read_norm(contents, path):
    """(scale, bias) of the last norm, float64[D]."""
    scale, bias = (
        contents.arrays[f"{path}/{each}"].read().astype(float) for each in ("scale", "bias")
    )
    if np.abs(scale).min() < 1e-3:
        raise ConfigError(
            f"{contents.name}: {path}/scale has an entry of {np.abs(scale).min():.1e}, by which an export "
            "must divide; train longer, with more weight decay, or with another recipe"
        )
    return scale, bias


def _fold_biases(arrays, scale, bias, stack, layers):
    """`arrays` without the biases of the output `layers` {bias path: kernel path}."""
    shift = scale if (bias / scale).sum() >= 0 else -scale
    row = 1 / (scale * ((bias + shift) / scale).sum())

    def fold(kernel_path, bias_path):
        kernel = arrays[kernel_path].read() if kernel_path in arrays else arrays[TABLE].read().T
        rest = arrays[bias_path].read() - shift @ kernel
        return kernel + np.outer(row, rest)

    folded = {path: array for path, array in arrays.items() if path not in layers}
    folded[f"{stack}/bias"] = _lazy(scale.shape, lambda: bias + shift)
    for bias_path, kernel_path in layers.items():
        shape = (len(scale), *arrays[bias_path].shape)
        folded[kernel_path] = _lazy(shape, functools.partial(fold, kernel_path, bias_path))
    return folded


def _fold_units(arrays, units, output):
    """`arrays` whose output layer gives values, without the units of a regression."""
    mean, std = arrays[f"{units}/mean"], arrays[f"{units}/std"]
    kernel, bias = arrays[f"{output}/kernel"], arrays.get(f"{output}/bias")

    def bias_in_units():
        return (bias.read() * std.read() if bias else 0) + mean.read()

    rest = {path: array for path, array in arrays.items() if not path.startswith(units)}
    return rest | {
        f"{output}/kernel": _lazy(kernel.shape, lambda: kernel.read() * std.read()),
        f"{output}/bias": _lazy(mean.shape, bias_in_units),
    }


def _identity_pooler(size, kernel, head):
    return {
        f"{head}/pooler/kernel": _lazy((size, size), lambda: np.eye(size) * TANH_SCALE),
        f"{head}/pooler/bias": _lazy((size,), lambda: np.zeros(size)),
        f"{head}/output/kernel": _lazy(kernel.shape, lambda: kernel.read() / TANH_SCALE),
    }


def _identity_transform(scale, bias, epsilon):
    """n = (h - c) / g has mean 0 and variance 1, so a second LayerNorm of e n / 2 is n after its scale."""
    size, small = len(scale), GELU_SCALE
    restored = scale * np.sqrt((small / 2) ** 2 + epsilon) * 2 / small
    return {
        f"{LM}/transform/kernel": _lazy((size, size), lambda: np.diag(small / scale)),
        f"{LM}/transform/bias": _lazy((size,), lambda: -small * bias / scale),
        f"{LM}/norm/scale": _lazy((size,), lambda: restored),
        f"{LM}/norm/bias": _lazy((size,), lambda: bias),
    }


def _lazy(shape, make):
    return LazyArray(shape, lambda: np.asarray(make(), np.float32))
