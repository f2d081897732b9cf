"""Hugging Face directories become run directories, and runs become Hugging Face directories.
One table per model family (families/), applied in both directions by convert.py; `as_run` serves
`init_from`. Nothing is unpickled, and no code from a model repository runs.
"""

from huggingface.as_run import as_run
from huggingface.export_class import describe_export

__all__ = ["as_run", "describe_export"]
