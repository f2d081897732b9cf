"""Shapes of our parameters for each class of a family: the base model's and its heads'.
Between the tables of huggingface/families/ and huggingface/convert.py; nothing is computed.
"""

import functools

import jax
import jax.numpy as jnp

import models
from huggingface.family import Family
from models.config import ModelConfig
from objectives.heads import DiscriminatorHead, PairHead
from tasks import TASKS
from training.param_rules import flatten_params

PRETRAINING_HEADS = {"pair": PairHead, "discriminator": DiscriminatorHead}


def of_model(family: Family, model: ModelConfig, num_classes: int) -> dict[str, tuple]:
    """{path: shape} of the base model's parameters and those of every known head."""
    module = models.build(model)
    row = models.make_inputs(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))
    rows = (row, row) if model.architecture == "encoder_decoder" else (row,)
    heads = {name: head(model) for name, head in PRETRAINING_HEADS.items()}
    for name, needs in family.head_needs.items():
        heads[name] = TASKS[name].head_module(max(num_classes, 1), **needs)
    rng, states = jax.random.key(0), jax.ShapeDtypeStruct((1, model.emb_dim), jnp.float32)
    init = functools.partial(module.init, method="init_all")
    tree = flatten_params(jax.eval_shape(init, rng, *rows)["params"])
    for name, head in heads.items():
        params = flatten_params(jax.eval_shape(head.init, rng, states)["params"])
        tree |= {f"heads/{name}/{path}": leaf for path, leaf in params.items()}
    return {path: leaf.shape for path, leaf in tree.items()}


def of_class(family: Family, tree: dict, name: str) -> tuple[dict, dict]:
    """(parameters of a class: the base model's and its heads', parameters that it may have)."""

    def below(heads):
        prefixes = tuple(f"heads/{head}/" for head in heads)
        return {path: shape for path, shape in tree.items() if f"{path}/".startswith(prefixes)}

    required, optional = family.heads_of(name)
    base = {path: shape for path, shape in tree.items() if not path.startswith("heads/")}
    return base | below(required), below(optional)
