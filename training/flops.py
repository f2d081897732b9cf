"""Model FLOPs of a training step, for utilization and for matching runs, from the parameter shapes.

Model FLOPs are what the mathematics needs, not what the program executes (Chowdhery et al. 2022, PaLM,
appendix B): 2 per weight and token forward, 4 backward, 2 of which for a frozen weight; recomputation
does not count.
"""

import jax

from training.param_rules import flatten_params

# Peak dense bfloat16 FLOP/s of one chip, from the vendors' data sheets, by JAX's device_kind.
PEAK = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12,
    "TPU v6 lite": 918e12, "TPU v6e": 918e12, "TPU7x": 2307e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12,
}  # fmt: skip


def peak_flops():
    """FLOP/s of all devices together, 0.0 if the chip is not in the table (every CPU)."""
    return PEAK.get(jax.devices()[0].device_kind, 0.0) * jax.device_count()


def count_params(params):
    """{'total', 'embedding', 'non_embedding', 'trunk'}: numbers of parameters of a tree with shapes.

    Embedding: token, position and token type embeddings. Trunk: encoder and decoder stacks.
    """
    sizes = {path: leaf.size for path, leaf in flatten_params(params).items()}
    total = sum(sizes.values())
    embedding = sum(n for path, n in sizes.items() if path.startswith("embed/"))
    trunk = sum(n for path, n in sizes.items() if path.startswith(("encoder/", "decoder/")))
    return {
        "total": total,
        "embedding": embedding,
        "non_embedding": total - embedding,
        "trunk": trunk,
    }


def describe(params, frozen=()):
    """One line for the log: the numbers of parameters and of frozen parameters of a tree."""
    sizes = count_params(params)
    frozen_paths = sum(leaf.size for path, leaf in flatten_params(params).items() if path in frozen)
    trained = sizes["total"] - frozen_paths
    share = f", {frozen_paths:,} frozen, {trained:,} ({trained / sizes['total']:.2%}) trained"
    return (
        f"{sizes['total']:,} parameters, {sizes['non_embedding']:,} without embeddings"
        f"{share if frozen_paths else ''}"
    )


def flops_per_step(task, params, frozen_paths=()):
    """Model FLOPs of one step of a LoadedTask, averaged over its batches; frozen_paths: frozen paths."""
    per_row = flops_per_row(task.flops_specs(params), task.abstract_batch, frozen_paths)
    return per_row * task.batch_size * task.length_share


def flops_per_row(specs, batch, frozen_paths=()):
    """Model FLOPs of one training step per row.

    Args:
      specs: ((ModelConfig, parameter tree, {head: positions of a row that it reads}), ...), one for each
        model that is trained; shapes suffice. The head `lm` counts tied embeddings too.
      batch: abstract Batch (arrays [B, ...]).
      frozen_paths: paths of the parameters that are frozen. Below the first one that is trained there is no
        backward pass; here, that is all of the model if only heads are trained, and nothing otherwise.
    """
    return sum(
        _model_flops(config, params, heads, batch, frozen_paths) for config, params, heads in specs
    )


def _model_flops(config, params, heads, batch, frozen_paths):
    flat, inputs = flatten_params(params), batch.inputs.tokens.shape[-1]
    if (prompt := flat.get("adapter/embed/tokens/prompt/embedding")) is not None:
        inputs += prompt.shape[0]
    backward = any(path not in frozen_paths and not path.startswith("heads/") for path in flat)

    def passes(path):
        """Forward, gradient of the input, gradient of the weight: those that are computed."""
        return 3 if path not in frozen_paths else 2 if backward else 1

    if config.architecture == "embeddings":  # a product for each pair, and with each negative
        return 3 * 2 * config.emb_dim * (batch.targets.shape[1] + inputs * batch.negatives.shape[1])
    is_encoder_decoder = config.architecture == "encoder_decoder"
    outputs = batch.decoder_inputs.tokens.shape[-1] if is_encoder_decoder else 0

    def positions(path):
        """The number of positions of a row that a kernel is applied to."""
        path = path.removeprefix("adapter/")
        if path.startswith("heads/"):
            return heads[path.split("/")[1]]
        if path.startswith("projection/"):  # of factorized embeddings, before both stacks
            return inputs + outputs
        if path.startswith("encoder/"):
            return inputs + outputs if config.share_encoder_decoder else inputs
        encoded = "cross_attention/key" in path or "cross_attention/value" in path
        return outputs if is_encoder_decoder and not encoded else inputs

    products = sum(
        passes(path) * leaf.size * positions(path)
        for path, leaf in flat.items()
        if path.endswith("/kernel")
    )
    scores = config.num_layers * inputs**2
    if is_encoder_decoder:
        scores += config.num_layers_in("decoder") * (outputs**2 / 2 + outputs * inputs)
    elif batch.inputs.attention == "causal":
        scores /= 2
    # An untied output embedding is a kernel, counted above.
    tied = config.vocab_size if config.tie_word_embeddings else 0
    head = heads.get("lm", 0) * tied * config.resolved_embedding_size
    head *= passes("embed/tokens/embedding")
    attention_dim = config.num_heads * config.resolved_head_dim
    return 2 * products + 2 * head + (3 if backward else 1) * 4 * scores * attention_dim
