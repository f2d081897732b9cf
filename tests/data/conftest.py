"""Lets the tests of `data/` share `corpora.py` and a corpus.

importlib mode puts no test folder on the path.
"""

import sys
from pathlib import Path

import pytest

from data import prepare

sys.path.append(str(Path(__file__).resolve().parent))


@pytest.fixture
def corpus(tmp_path):
    """Four files, which small work items divide further."""
    from corpora import documents, write

    for number in range(4):
        write(tmp_path / f"{number}.txt", documents(150, seed=number))
    return f"text:{tmp_path}/*.txt"


@pytest.fixture
def small_items(monkeypatch):
    monkeypatch.setattr(prepare, "_MIN_ITEM_BYTES", 6000)
