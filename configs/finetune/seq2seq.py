"""Sequence-to-sequence finetuning of a decoder or an encoder-decoder: translation, data-to-text, summaries.

    python finetune.py --config=configs/finetune/seq2seq.py:e2e --workdir=runs/e2e \\
                       --config.init_from=runs/encoder_decoder \\
                       --config.task.source='files:/path/{train,validation,test}.jsonl'

The argument names the columns, lengths and prompt of a data set; without one they are `source` and `target`.
A decoder reads the source in both directions with --config.task.attention=prefix, which suits one that was
pretrained so (objective=prefix_lm). The scores are loss, token accuracy, perplexity and bits per byte of the
targets, and BLEU, chrF or ROUGE of generated texts (pip install -e .[metrics]; without the packages set
--config.task.num_generated=0 --config.task.final_generation=False). Published scores:

- wmt (columns en and de, with T5's prompt): T5-Base 30.9 BLEU on WMT 2014 English to German (Raffel et al.
  2020, table 14).
- multi30k (columns en and de): Transformer-Tiny, text alone, 41.02 BLEU on test 2016 (Wu et al. 2021, ACL,
  table 2).
- e2e (columns mr and ref): 68.2 BLEU for GPT-2 medium, finetuned in full (Hu et al. 2022, table 3).
- summarization (columns document and summary): BART 45.14 / 22.27 / 37.25 ROUGE-1/2/L on XSum (Lewis et al.
  2020, table 3).
"""

import ml_collections

ROUGE = {"generation_metrics": ("rouge",)}
# Argument -> the fields of the task.
DATA_SETS = {
    "": {},
    "wmt": {
        "source_column": "en", "target_column": "de", "max_seq_len": 128, "max_target_len": 128,
        "prompt": "translate English to German: {source}",
    },
    "multi30k": {
        "source_column": "en", "target_column": "de", "max_seq_len": 56, "max_target_len": 72,
    },
    "e2e": {
        "source_column": "mr", "target_column": "ref", "max_seq_len": 104, "max_target_len": 104,
    },
    "summarization": {
        "source_column": "document", "target_column": "summary", "max_seq_len": 512,
        "max_target_len": 64, **ROUGE,
    },
}  # fmt: skip


def get_config(data_set=""):
    """The recipe for one of DATA_SETS."""
    if data_set not in DATA_SETS:
        raise ValueError(
            f"{data_set!r} is no data set of this config: choose {', '.join(filter(None, DATA_SETS))}, or "
            "none of them and set task.source_column and task.target_column"
        )
    config = ml_collections.ConfigDict()
    config.task = {"name": "seq2seq", "label_smoothing": 0.1, **DATA_SETS[data_set]}
    config.task.update({"num_generated": 16, "final_generation": True})
    config.training = {"duration": "5 epochs", "batch_size": 32}
    config.optimizer = {"name": "adamw", "learning_rate": 5e-4, "schedule": "linear"}
    config.optimizer.update({"warmup": "6 %", "final_lr_frac": 0.0})
    return config
