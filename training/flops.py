"""Model FLOPs of an update, for utilisation and for matching runs, counted from the parameter shapes.

Model FLOPs are what the mathematics needs, not what the program does (Chowdhery et al. 2022, PaLM,
appendix B): 2 per weight and token forward, twice that backward; recomputation does not count.
"""

import jax

from training import rules

# Peak dense bfloat16 FLOP/s of one chip, from the vendors' data sheets; device_kind as JAX says it.
PEAK = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12,
    "TPU v6 lite": 918e12, "TPU v6e": 918e12, "TPU7x": 2307e12,
    "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12,
}  # fmt: skip


def peak():
    """FLOP/s of all devices together, 0.0 where the chip is not in the table (every CPU)."""
    return PEAK.get(jax.devices()[0].device_kind, 0.0) * jax.device_count()


def count(params):
    """{'total', 'embedding', 'non_embedding', 'trunk'} parameters of a tree of leaves with shapes.

    Embedding = token, position and type tables; trunk = encoder and decoder stacks.
    """
    sizes = {path: leaf.size for path, leaf in rules.paths(params).items()}
    total = sum(sizes.values())
    tables = sum(n for path, n in sizes.items() if path.startswith("embed/"))
    trunk = sum(n for path, n in sizes.items() if path.startswith(("encoder/", "decoder/")))
    return {"total": total, "embedding": tables, "non_embedding": total - tables, "trunk": trunk}


def per_row(objective, config, params, batch):
    """Model FLOPs of one training update per row, of all networks that the objective trains.

    Args:
      objective: an objective or a task, which says what its networks are.
      config: ModelConfig of the network that is kept.
      params: parameter tree (shapes suffice).
      batch: abstract Batch (leaves with shapes [B, ...]).
    """
    return sum(
        of_network(network, part, batch, heads)
        for network, part, heads in objective.networks(config, params, batch)
    )


def of_network(config, params, batch, heads):
    """Model FLOPs of one update of one network per row.

    Args:
      config: ModelConfig.
      params: parameter tree (shapes suffice).
      batch: abstract Batch (leaves with shapes [B, ...]).
      heads: {head: positions of a row that it reads}; `lm` scores with the tied table too.
    """
    read = batch.inputs.tokens.shape[1]
    if config.architecture == "embeddings":  # a product for each pair, and with each noise word
        return 3 * 2 * config.width * (batch.targets.shape[1] + read * batch.noise.shape[1])
    written = batch.decoder.tokens.shape[1] if batch.decoder is not None else read
    kernels = {path: leaf for path, leaf in rules.paths(params).items() if path.endswith("/kernel")}
    width = config.width if not config.head_size else config.heads * config.head_size
    products = 0
    for path, leaf in kernels.items():
        if path.startswith("heads/"):
            length = heads[path.split("/")[1]]
        elif path.startswith("projection/"):  # of embeddings, in front of both stacks
            length = read if batch.decoder is None else read + written
        elif config.shared_stacks and path.startswith("encoder/"):
            length = read + written
        elif path.startswith("encoder/") or batch.decoder is None:
            length = read
        else:
            length = (
                read
                if "cross_attention/key" in path or "cross_attention/value" in path
                else written
            )
        products += leaf.size * length
    scores = 0
    if config.architecture == "encoder_decoder":
        scores = config.layers * read**2 + (config.decoder_layers or config.layers) * (
            written**2 / 2 + written * read
        )
    else:
        causal = 2 if batch.inputs.visibility == "causal" else 1
        scores = config.layers * read**2 / causal
    scored = config.vocab_size if config.tied_embeddings else 0  # untied, it is a kernel above
    head = heads.get("lm", 0) * scored * config.size_of_embedding
    return 3 * (2 * products + 2 * head + 4 * scores * width)
