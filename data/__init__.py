"""Text to documents to tokens to rows, and labeled examples, with NumPy, TFDS, Grain and tokenizers.

The first package of the flow: it makes no JAX array and imports no other package of ours.
"""
