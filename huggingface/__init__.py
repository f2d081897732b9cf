"""Published weights in, our weights out: Hugging Face's directories and our run directories.
One table for each family (families/), read in both directions by convert.py; tools.convert is its
command line. Nothing is ever unpickled, and no code of a model's repository runs.
"""
