"""Whole experiments made of `train.run` and `finetune.run`, in one process: tables, figures, reports."""
