"""Tasks: labelled examples -> Batch, predictions -> metric; one file per task shape.
finetune.py reads `TaskConfig`, encodes a split, and trains a head beside the pretrained trunk.
Imports data/, models/ and objectives/batch.py.
"""
