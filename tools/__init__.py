"""Programs around a run (prepare, inspect, convert, generate, ...): `python -m tools.NAME`.

They stand beside `train.py` and `finetune.py` and may import every room.
"""
