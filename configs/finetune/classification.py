"""A classifier from any pretrained run, for single texts or pairs, in all three architectures.

    python finetune.py --config=configs/finetune/classification.py --workdir=runs/enc-docs \\
                       --config.init_from=runs/encoder
    ... --config.task.source='files:/path/{train,validation,test}.tsv' --config.task.text_column=sentence

Measured on a 2-core CPU (docs/results.md), as in configs/sweeps/three_ways.py:preset=study: test
accuracy with 2,000 docstrings: encoder 0.792, decoder 0.791, encoder-decoder 0.778 (3 seeds).
"""

import ml_collections


def get_config():
    """The recipe of BERT's finetuning (Devlin et al. 2019, appendix A.3) at the shipped sizes."""
    config = ml_collections.ConfigDict()
    config.task = {
        "source": "python_docs",
        "text_column": "text",
        "label_column": "label",
        "max_seq_len": 64,
    }
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
