"""A classifier on top of any of our pretrained runs: single texts or pairs, all three architectures.

    python finetune.py --config=configs/finetune/classification.py --workdir=runs/enc-docs \\
                       --config.init_from=runs/encoder
    ... --config.task.source=files:/path/{train,validation,test}.tsv --config.task.text=sentence
"""

import ml_collections


def get_config():
    """The recipe of BERT's finetuning (Devlin et al. 2019, appendix A.3) at our sizes."""
    config = ml_collections.ConfigDict()
    config.task = {"source": "python_docs", "text": "text", "label": "label", "length": 64}
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_ratio": 0.0})
    return config
