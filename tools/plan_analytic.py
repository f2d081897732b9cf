"""An estimate of a train step by formulas: for GPUs, which are not compiled for here, and to order a search.

Memory: the train state is exact; activations by Korthikanti et al. 2022 (2205.05198), sections 4.1
and 5, see `bytes_kept`. Communication: parameters and gradients as in ZeRO (Rajbhandari et al. 2020), tensor
parallelism as in Megatron-LM (Shoeybi et al. 2019): two all-reduces per layer, forward and backward.
"""

from models import attention_kernels, describe_attention
from tools.chips import Chip
from tools.hlo import Collective
from tools.plan_report import Report
from training import flops
from training.sharding import AXES

NOTE = (
    "activations and communication by formulas (tools/plan_analytic.py); the train state is exact"
)
BEYOND_A_NODE = "counts NVLink between all GPUs; between nodes of 8 the network is slower"


def analytic_report(topology: str, chip: Chip, step) -> Report:
    """The Report of a plan_step.PlannedStep, without compiling it."""
    config, task = step.config, step.task
    model, mesh = task.model_config, dict(step.mesh.shape)
    data, fsdp, tensor, sequence = (mesh[axis] for axis in AXES)
    parts, remat = config.training.grad_accum_steps, config.training.remat
    rows = task.batch_size // parts // (data * fsdp)
    width = 2 if model.dtype == "bfloat16" else 4
    memory = dict(step.state_bytes)
    trained = memory["parameters"]
    stacks = _stacks(model, task.abstract_batch)
    # numbers in [B,T,D] of each stack
    hidden = [rows * length * model.emb_dim / sequence for _, length in stacks]
    kept, every = (
        sum(
            layers * size * bytes_kept(model, length, tensor, option) * width / 2
            for (layers, length), size in zip(stacks, hidden, strict=True)
        )
        for option in (remat, "none")
    )
    largest = max(
        size * bytes_kept(model, length, tensor, "none") * width / 2
        for (_, length), size in zip(stacks, hidden, strict=True)
    )
    memory["gradients"] = trained * (2 if parts > 1 else 1)
    memory["activations"] = int(kept + largest * (remat != "none"))
    per_layer = flops.count_params(step.params)["trunk"] / max(1, sum(n for n, _ in stacks))
    if fsdp > 1:  # two layers are gathered at a time
        memory["gathered parameters"] = int(2 * per_layer / tensor * width)
    executed = step.model_flops / step.mesh.size * (4 / 3 if remat == "full" else 1)
    whole = trained * fsdp  # float32 parameters of this device's part of the tensor axis
    found = []
    size = sum(layers * size for (layers, _), size in zip(stacks, hidden, strict=True)) * width
    if tensor > 1:
        number = parts * sum((6 if remat == "full" else 4) * layers for layers, _ in stacks)
        times = 6 if remat == "full" else 4
        found.append(
            Collective("all-reduce", ("tensor",), number, parts * times * size * 2 * _share(tensor))
        )
    if fsdp > 1:
        gathered = parts * 2 * whole * width / 4 * _share(fsdp)
        found.append(Collective("all-gather", ("fsdp",), 2 * parts, gathered))
        found.append(Collective("reduce-scatter", ("fsdp",), parts, parts * whole * _share(fsdp)))
    if sequence > 1:  # keys and values of whole rows, and their gradients
        wide = 2 * model.resolved_num_kv_heads * model.resolved_head_dim / model.emb_dim / tensor
        number, sent = parts * 4 * sum(layers for layers, _ in stacks), wide * size * (sequence - 1)
        found.append(Collective("all-gather", ("sequence",), number, parts * 2 * sent))
    if data * sequence > 1:
        axes = tuple(axis for axis in ("data", "sequence") if mesh[axis] > 1)
        found.append(Collective("all-reduce", axes, 1, 2 * trained * _share(data * sequence)))
    state = sum(step.state_bytes.values())
    # Each is written and read, recomputed activations as well as kept ones.
    activations = 2 * every + 2 * kept * (remat != "none")
    traffic = 2 * state + 2 * memory["gradients"] + parts * (3 * whole * width / 4 + activations)
    return Report(
        topology=topology, chip=chip, devices=step.mesh.size, mesh=mesh, memory=memory,
        model_flops=step.model_flops, executed_flops=executed, xla={}, bytes_accessed=traffic,
        collectives=found, tokens_per_step=task.tokens_per_step, is_analytic=True,
        attention=describe_attention(
            model, task.abstract_batch.inputs, task.abstract_batch.decoder_inputs,
            platform="gpu" if chip.is_gpu else "tpu",
        ),
        notes=(NOTE, *step.unsharded, *(BEYOND_A_NODE,) * (chip.is_gpu and step.mesh.size > 8)),
    )  # fmt: skip


def _share(number):
    return (number - 1) / number


def _stacks(model, batch):
    """[(layers, tokens of a row)] of each stack; cross-attention counts as half a layer more."""
    lengths = [x.tokens.shape[-1] for x in (batch.inputs, batch.decoder_inputs) if x is not None]
    if model.architecture == "encoder_decoder":
        return [(model.num_layers, lengths[0]), (1.5 * model.num_layers_in("decoder"), lengths[1])]
    return [(model.num_layers if model.architecture != "embeddings" else 0, lengths[0])]


def bytes_kept(model, length, tensor, remat):
    """Bytes that a layer keeps per number of its input [B,T,D], if all numbers have two bytes.

    Korthikanti et al.: 10 + 24 / t, and 5 a s / (h t) more for attention that keeps its scores. The 24
    are 8 of queries, keys, values and their product, and 16 of an MLP of 4 h. remat=dots keeps the
    layer's input and the outputs of matrix products, remat=full its input.
    """
    heads = model.num_heads * model.resolved_head_dim / model.emb_dim
    mlp = model.mlp_dim / model.emb_dim
    if remat in ("full", "offload"):  # offload: the rest is in the memory of the host
        return 2.0
    if remat == "dots":
        return 6 + (6 * heads + 2 * mlp * (1 + model.gated_mlp)) / tensor
    kept = 10 + (8 * heads + 4 * mlp * (1.5 if model.gated_mlp else 1)) / tensor
    option = model.attention_kernel if model.attention_kernel in ("dense", "chunked") else "auto"
    case = attention_kernels.AttentionSpec(length, length, platform="gpu")
    if attention_kernels.choose_kernel(option, case) == "dense":
        kept += 5 * model.num_heads * length / model.emb_dim / tensor
    return kept
