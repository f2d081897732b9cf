"""TaskConfig: which labelled set, read how, scored by what.
The section `task` of a finetuning config; checked by training/config.py from the metadata.
Read by finetune.py; the head's share of it by tasks/classification.py.
"""

from dataclasses import dataclass, field

from tasks.metrics import METRICS


def _field(default, help, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class TaskConfig:
    """A labelled set and what is learned from it."""

    source: str = _field("python_docs", "python_docs, tfds:NAME or files:/path/{train,test}.tsv")
    text: str = _field("text", "column of the text")
    text_pair: str = _field("", "column of the second text of a pair; empty: single texts")
    label: str = _field("label", "column of the label")
    validation_fraction: float = _field(
        0.1, "held out of train where the set has no validation split", min=0.001, max=0.9
    )
    length: int = _field(128, "tokens of an example; longer ones are cut", min=4)
    examples: int = _field(0, "labels that may be used, a stratified subset; 0: all", min=0)
    alike: int = _field(
        0,
        "steps whose examples are sorted by length, so that a batch of short ones is short; 0: none",
        min=0,
    )
    metric: str = _field("accuracy", "decides which step is best", choices=tuple(METRICS))
    head_dropout: float = _field(0.1, "before the classifier", min=0.0, max=0.99)
    pooler: bool = _field(False, "dense and activation before the classifier")
    pooler_activation: str = _field(
        "tanh",
        "of the pooler: tanh (BERT, RoBERTa, BART), relu (DistilBERT), gelu (ELECTRA, ModernBERT)",
        choices=("tanh", "relu", "gelu"),
    )
    pooler_norm: bool = _field(
        False, "LayerNorm behind the pooler, both without biases (ModernBERT)"
    )
    head_bias: bool = _field(True, "a bias in the classifier (False: as published decoders)")
    reading: str = _field(
        "usual",
        "what is classified: the state of [CLS] or of the last token, or the mean of all; "
        "usual: mean for an encoder-decoder (of its decoder's states), else state",
        choices=("usual", "state", "mean"),
    )
    decoder_input: str = _field(
        "text",
        "what an encoder-decoder's decoder reads: the text again (BART) or its start token alone",
        choices=("text", "start"),
    )
