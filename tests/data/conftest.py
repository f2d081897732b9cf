"""Lets the tests of `data/` share `corpora.py`.

importlib mode puts no test folder on the path.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
