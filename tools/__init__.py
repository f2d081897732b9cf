"""Programs around a run (prepare, inspect, convert, generate, ...): `python -m tools` lists them.

They stand beside `train.py` and `finetune.py` and may import every room. What is wrong is one line on
standard error and status 1 (training/cli.py), so that they can be used in scripts.
"""
