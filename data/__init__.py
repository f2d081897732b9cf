"""The data room: text -> documents -> tokens -> rows, by NumPy, TFDS, Grain and tokenizers.

First room of the flow; nothing here makes a JAX array, and nothing of ours is imported from outside.
"""
