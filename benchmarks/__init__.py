"""Measurements of speed, each printed with what it was measured against: `python -m benchmarks.NAME`.

Beside the flow: nothing imports them.
"""
