"""Word vectors by skip-gram with negative sampling, as word2vec (Mikolov et al. 2013).

python train.py --config=configs/skip_gram.py --workdir=runs/skip_gram
python train.py --config=configs/skip_gram.py:words=false --workdir=runs/pieces    # of pieces, as a
    # Transformer reads them: --config.tokenizer.path=RUN takes its tokenizer over
python -m tools.evaluate --run=runs/skip_gram --suite=similarity --data=FILE.tsv

Measured on two CPU cores (docs/log.md): 50 million words of English prose, 5 epochs of 2 minutes each:
Spearman 0.652 on WordSim-353, 0.330 on SimLex-999, 0.707 on MEN; 46 % of word2vec's analogies.
"""

import ml_collections

from configs import base


def get_config(arg=""):
    """`arg`: words=true|false (lower-cased words, or byte-level BPE), width=SIZE."""
    arg = base.parse(arg, words="true", width="100")
    config = ml_collections.ConfigDict()
    config.model = {"architecture": "embeddings", "width": int(arg["width"])}
    config.objective = {"name": "skip_gram"}
    config.data = {"source": "python_docs"}
    config.tokenizer = {"kind": "bpe", "vocab_size": 4096}
    if arg["words"] not in ("true", "false"):
        raise ValueError(f"words={arg['words']!r}: expected true or false")
    if arg["words"] == "true":
        config.tokenizer = {"kind": "word", "vocab_size": 30_000, "lowercase": True}
        config.tokenizer.min_frequency = 5
    config.training = {"duration": "10 epochs", "batch_size": 128, "length": 64}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-2,
        "schedule": "linear",
        "warmup": "2 %",
        "final_ratio": 0.01,
        "beta2": 0.999,
        "epsilon": 1e-12,  # a mean over thousands of pairs leaves a rare word a tiny gradient
        "weight_decay": 0.0,
        "clip_norm": 0.0,
    }
    return config
