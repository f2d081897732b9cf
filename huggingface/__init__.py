"""The room of Hugging Face's files: published weights and tokenizers in, ours out.

Beside training/: below `tools.convert` and the entry files, above models/, data/ and training/.
"""
