"""Word vectors by skip-gram with negative sampling, as word2vec (Mikolov et al. 2013).

python train.py --config=configs/skip_gram.py --workdir=runs/skip_gram
python train.py --config=configs/skip_gram.py:words=false --workdir=runs/skip_gram-bpe   # subword tokens;
    # --config.tokenizer.path=RUN uses the tokenizer of a Transformer's run
python -m tools.evaluate --run=runs/skip_gram --suite=similarity --data=FILE.tsv

Measured on a 2-core CPU (docs/log.md), 50 million words of English prose, 5 epochs in 10 minutes:
Spearman 0.652 on WordSim-353, 0.330 on SimLex-999, 0.707 on MEN; 46 % of word2vec's analogies.
"""

import ml_collections

from configs import base


def get_config(arg=""):
    """Config of skip-gram word vectors.

    Args:
      arg: comma-separated NAME=VALUE:
        words: true (default; lower-cased words) or false (byte-level BPE).
        emb_dim: size of the vectors, 100 by default.
    """
    arg = base.parse(arg, words="true", emb_dim="100")
    config = ml_collections.ConfigDict()
    config.model = {"architecture": "embeddings", "emb_dim": int(arg["emb_dim"])}
    config.objective = {"name": "skip_gram"}
    config.data = {"source": "python_docs"}
    config.tokenizer = {"type": "bpe", "vocab_size": 4096}
    if arg["words"] not in ("true", "false"):
        raise ValueError(f"words={arg['words']}: expected true or false")
    if arg["words"] == "true":
        config.tokenizer = {"type": "word", "vocab_size": 30_000, "lowercase": True}
        config.tokenizer.min_frequency = 5
    config.training = {"duration": "10 epochs", "batch_size": 128, "seq_len": 64}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-2,
        "schedule": "linear",
        "warmup": "2 %",
        "final_lr_frac": 0.01,
        "beta2": 0.999,
        "epsilon": 1e-12,  # the mean over thousands of pairs leaves a rare word a tiny gradient
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
    }
    return config
