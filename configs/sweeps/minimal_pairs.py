"""Which objective learns grammar? Encoder, decoders and encoder-decoders at equal parameters and tokens.

    python -m tools.sweep --config=configs/sweeps/minimal_pairs.py:source=text:corpus.txt --workdir=runs/pairs
    ... --config=configs/sweeps/minimal_pairs.py:duration=3e14_FLOPs     # at equal FLOPs

`python -m studies.minimal_pairs --workdir=DIR --data=blimp.jsonl` then scores minimal pairs with every run,
in each way that fits its objective. The BabyLM challenge has these scores of decoders and encoders; its
tables have no encoder-decoder (Charpentier et al. 2025, "BabyLM Turns 3").
"""

from configs import base
from sweeps import Space, Sweep, grid, train

FILES = {
    "masked_lm": "encoder", "causal_lm": "decoder", "prefix_lm": "decoder", "hybrid": "decoder",
    "span_corruption": "encoder_decoder", "bert_style": "encoder_decoder",
}  # fmt: skip


def get_sweep(arg=""):
    """A pretraining run of each objective and seed.

    Args:
      arg: comma-separated NAME=VALUE; several values are joined by +.
        objectives: masked_lm+causal_lm+prefix_lm+hybrid+span_corruption+bert_style by default.
        source: text, as data.source; '' (default): that of the config files.
        duration: such as 1e7_tokens (default) or 3e14_FLOPs.
        size: tiny (default), ... of models/presets.py.
        layers: of the models with one stack, a multiple of 7 (default: 7): 3 of 7 in each of two stacks
          have as many parameters without embeddings.
        seeds: number of seeds, 3 by default.
    """
    given = base.parse(
        arg, objectives="+".join(FILES), source="", duration="1e7_tokens", size="tiny", layers="7", seeds="3"
    )  # fmt: skip
    layers = int(given["layers"])
    if layers % 7 or layers < 7:
        raise ValueError(f"argument 'layers={layers}': expected a multiple of 7")
    space = Space(())
    for name in given["objectives"].split("+"):
        if name not in FILES:
            raise ValueError(f"argument 'objectives={name}': expected some of {', '.join(FILES)}")
        # Kernels of attention and MLP have 12 emb_dim^2 in a layer, and 16 in one with cross-attention.
        num_layers = layers * 12 // (12 + 16) if FILES[name] == "encoder_decoder" else layers
        file = f"configs/{FILES[name]}.py:size={given['size']},objective={name}"
        space += grid(config=[file], model__num_layers=[num_layers])
    recipe = {"duration": [given["duration"].replace("_", " ")], "evaluation.every": ["20 %"]}
    recipe |= {"data.source": [given["source"]]} if given["source"] else {}
    return Sweep(
        train(space * grid(recipe, seed=range(int(given["seeds"])))),
        title="Objectives at equal parameters",
        metric="validation/loss",
    )
