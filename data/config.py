"""The settings of the data room: where text comes from, and how it becomes pieces.

First in the flow: `data.prepare` reads both; choices and ranges stand in the fields' metadata.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataConfig:
    """Where the text comes from and how it is read."""

    source: str = field(
        default="python_docs",
        metadata={
            "help": "'python_docs', 'text:GLOB', 'tfds:NAME', or a mixture of them such as "
            "\"((0.7, 'text:a/*'), (0.3, 'tfds:b'))\""
        },
    )
    document_separator: str = field(
        default="blank_line",
        metadata={
            "choices": ("blank_line", "line", "file"),
            "help": "what ends a document in text files",
        },
    )
    text_field: str = field(
        default="text", metadata={"help": "the feature of a tfds source that holds the text"}
    )
    validation_fraction: float = field(
        default=0.01,
        metadata={
            "min": 0.0,
            "max": 0.5,
            "help": "held out by hash of the document, of sources without a validation split",
        },
    )
    cache_dir: str = field(
        default="",
        metadata={"help": "token stores, tokenizers; '' is $TRIPTYCH_CACHE or ~/.cache/triptych"},
    )
    workers: int = field(
        default=0, metadata={"min": 0, "help": "tokenising processes; 0 is one per core"}
    )
    threads: int = field(
        default=4, metadata={"min": 1, "max": 256, "help": "threads that read rows while training"}
    )
    prefetch: int = field(
        default=8, metadata={"min": 1, "max": 1024, "help": "batches read ahead while training"}
    )

    def __post_init__(self):
        if not self.source.strip():
            raise ValueError(
                "data.source is empty: name one, such as 'python_docs' or 'text:/path/*.txt'"
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes pieces. One tokenizer serves every objective, so that comparisons share it."""

    kind: str = field(
        default="bpe",
        metadata={
            "choices": ("bpe", "wordpiece", "unigram", "word"),
            "help": "byte-level BPE, WordPiece, Unigram, or whole words, trained on the corpus",
        },
    )
    vocab_size: int = field(
        default=8192,
        metadata={
            "min": 128,
            "max": 4_000_000,
            "help": "pieces in all, the 113 special ones included",
        },
    )
    path: str = field(
        default="",
        metadata={"help": "a tokenizer.json (or a directory with one) to use; '' trains one"},
    )
    lowercase: bool = field(default=False, metadata={"help": "lower-case the text first"})
    training_bytes: int = field(
        default=100_000_000,
        metadata={"min": 1, "help": "text the tokenizer is trained on, at most, in bytes"},
    )
    min_frequency: int = field(
        default=2, metadata={"min": 1, "help": "occurrences a merge or a word must have"}
    )

    def __post_init__(self):
        if self.kind == "bpe" and not self.path and self.vocab_size < 369:
            raise ValueError(
                f"tokenizer.vocab_size is {self.vocab_size}, byte-level BPE needs at least 369 "
                "(113 special pieces and 256 bytes): raise it"
            )
