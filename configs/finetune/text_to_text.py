"""Labels as words that a decoder or an encoder-decoder generates (T5), from any pretrained run.

    python finetune.py --config=configs/finetune/text_to_text.py --workdir=runs/t5-sst2 \\
                       --config.init_from=runs/encoder_decoder \\
                       --config.task.source='files:/path/{train,dev}.tsv'
    ... --config.task.prompt='sst2 sentence: {text}' --config.task.text_column=sentence \\
        --config.task.verbalizers="(('0', 'negative'), ('1', 'positive'))"
    WiC --config.task.prompt='word: {word} first: {sentence1} second: {sentence2}'   # any columns

The published reference on SST-2's test set is 95.2 (T5-base; Raffel et al. 2020, table 14).
"""

import ml_collections


def get_config():
    """The recipe of configs/finetune/classification.py."""
    config = ml_collections.ConfigDict()
    config.task = {"name": "text_to_text", "source": "", "max_seq_len": 128}
    config.training = {"duration": "3 epochs", "batch_size": 16}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"}
    config.optimizer.update({"warmup": "10 %", "final_lr_frac": 0.0})
    return config
