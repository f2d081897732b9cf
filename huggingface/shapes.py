"""Shapes of the parameters that a network of ours and its heads have, for what a class of a family holds.
Between the tables of huggingface/families/ and huggingface/convert.py; nothing is computed.
"""

import jax
import jax.numpy as jnp

import models
from huggingface.family import Family
from models.config import ModelConfig
from objectives.heads import DiscriminatorHead, PairHead
from tasks.classification import ClassificationHead
from training import rules


def of_network(family: Family, model: ModelConfig, classes: int) -> dict[str, tuple]:
    """{path: shape} of our parameters: the network's and those of every head there is."""
    network = models.build(model)
    row = models.sequence_of(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))
    rows = (row, row) if model.architecture == "encoder_decoder" else (row,)
    key, states = jax.random.key(0), jax.ShapeDtypeStruct((1, model.width), jnp.float32)
    task = family.needs.get("classification", {})
    heads = {
        "pair": PairHead(model),
        "discriminator": DiscriminatorHead(model),
        "classification": ClassificationHead(
            max(classes, 1),
            pooler=task.get("pooler", False),
            bias=task.get("head_bias", True),
            norm=task.get("pooler_norm", False),
        ),  # fmt: skip
    }
    tree = jax.eval_shape(lambda: network.init(key, *rows, method="initialise")["params"])
    tree = rules.paths(tree)
    for head, module in heads.items():
        fresh = jax.eval_shape(module.init, key, states)["params"]
        tree |= {f"heads/{head}/{path}": leaf for path, leaf in rules.paths(fresh).items()}
    return {path: leaf.shape for path, leaf in tree.items()}


def of_class(family: Family, tree: dict, name: str) -> tuple[dict, dict]:
    """The part of a tree that a class has, the network and its heads; and that which it may have."""

    def below(heads):
        return {
            path: shape
            for path, shape in tree.items()
            if any(f"{path}/".startswith(f"heads/{head}/") for head in heads)
        }

    must, may = family.heads(name)
    network = {path: shape for path, shape in tree.items() if not path.startswith("heads/")}
    return network | below(must), below(may)
