"""Whole experiments that call `train.run` and `finetune.run` in one process: tables, figures, reports."""
