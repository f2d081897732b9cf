"""The collectives of a compiled train step on meshes of eight virtual devices, from its HLO.

    python -m benchmarks.collectives [--architecture=decoder] [--scan_layers] [--topology=v5e:2x4]

A small model whose arrays have different sizes, with two microbatches. A line names where the collective
is: in the loop over microbatches (or over layers), or once per step. tests/test_collectives.py reads it.
"""

import argparse
import collections
import dataclasses
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

import models
import objectives
from models.config import ModelConfig
from objectives.base import ObjectiveSpec
from objectives.vocabulary import Vocabulary
from tasks.pretraining import LoadedPretraining
from tools import hlo
from train import train_step
from training import sharding
from training.optimizers import AdamW, Optimizer
from training.schema import MeshConfig, Seeds
from training.state import TrainState
from training.train_step import init_params, rng_streams

MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "mixed": (2, 2, 2), "sequence": (2, 1, 1, 4)}
OBJECTIVES = {"encoder": "masked_lm", "decoder": "causal_lm", "encoder_decoder": "span_corruption"}
# All different, so that a shape identifies its array; embeddings and layers share WIDTH.
VOCAB, LENGTH, WIDTH, MLP, LAYERS = 1024, 48, 64, 256, 2
SIZES = {"vocab_size": VOCAB, "max_length": LENGTH, "emb_dim": WIDTH, "mlp_dim": MLP, "num_heads": 4,
         "num_layers": LAYERS, "rows": 32}  # fmt: skip
VOCABULARY = Vocabulary(
    size=VOCAB, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 113)), regular_token_ranges=((113, VOCAB),),
)  # fmt: skip


def lower_step(architecture, mesh, loop, sizes, grad_accum_steps=1):
    """(train.py's step lowered for abstract arguments on a mesh, its dynamic arguments).

    sizes: fields of ModelConfig, and rows of max_length tokens per step."""
    rows, sizes = sizes["rows"], {name: size for name, size in sizes.items() if name != "rows"}
    objective = objectives.build(OBJECTIVES[architecture], {})
    config = ModelConfig(architecture, positions="rope", use_bias=False, **sizes)
    vocabulary = dataclasses.replace(
        VOCABULARY, size=config.vocab_size, regular_token_ranges=((113, config.vocab_size),)
    )
    task = LoadedPretraining(
        objective, ObjectiveSpec(architecture, vocabulary, config.max_length), rows, config,
        tokenizer=None, corpus=None, train=[], validation=[], order=None, read_ahead=(1, 1),
        num_batches=0, process={},
    )  # fmt: skip
    model, rngs = models.build(config, loop=loop), rng_streams(Seeds())
    optimizer = Optimizer(AdamW(), 0.0, grad_accum_steps)

    def placed(tree, shardings):
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, shardings
        )

    with sharding.use_mesh(mesh):
        params = jax.eval_shape(lambda rngs: init_params(task, model, rngs), rngs)
        state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
        state = placed(state, sharding.state_shardings(mesh, state))
        tokens = jax.ShapeDtypeStruct((rows, task.lengths.raw), np.int32)
        inputs = jax.ShapeDtypeStruct((rows, 2), np.uint32), tokens
        inputs = placed(inputs, (sharding.batch_sharding(mesh),) * 2)
        arguments = state, {}, rngs, inputs, jax.ShapeDtypeStruct((), jnp.float32)
        return train_step.lower(task, model, *arguments), arguments


def collectives(text):
    """Counter of (in a loop, operation, shape such as 'f32[64,8]') of the text of a compiled program. The
    parts of a combined collective count one by one."""
    program, found = hlo.Program(text), collections.Counter()
    for name, instructions in program.computations.items():
        for each in instructions:
            kind = each.opcode.removesuffix("-start")
            if kind in hlo.COLLECTIVES:
                for shape in re.findall(r"\w+\[[\d,]*\]", each.shape):
                    found[name in program.in_loops, kind, shape] += 1
    return found


def devices_of(topology):
    """The devices of a TPU topology such as 'v5e:2x4', by libtpu; None of '', for this machine's."""
    return topologies.get_topology_desc(topology, platform="tpu").devices if topology else None


def main():
    """Prints a line for each mesh, place, operation and shape; with --json, lists of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--architecture", choices=OBJECTIVES, default="decoder")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--scan_layers", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--topology", default="", help="such as v5e:2x4; needs libtpu, but no TPU")
    given = parser.parse_args()
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
    jax.config.update("jax_platforms", "cpu")
    loop, every = models.LayerLoop(given.remat, given.scan_layers), {}
    for name, sizes in MESHES.items():
        mesh = sharding.make_mesh(MeshConfig(*sizes), devices_of(given.topology))
        lowered, _ = lower_step(given.architecture, mesh, loop, SIZES, grad_accum_steps=2)
        found = collectives(lowered.compile().as_text())
        every[name] = [[*key, count] for key, count in sorted(found.items())]
    if given.json:
        print(json.dumps(every))
        return
    for name, rows in every.items():
        for in_loop, op, shape, count in rows:
            print(f"{name:6} {'loop' if in_loop else 'step'}  {op:18} {count:3} x {shape}")


if __name__ == "__main__":
    main()
