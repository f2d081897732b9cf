"""Programs around a run: `python -m tools` lists them.

They may import every package but the entry files. Errors are one line on standard error, with status 1.
"""
