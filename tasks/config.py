"""TaskConfig: which labelled set, read how, scored by what.
The section `task` of a finetuning config; checked by training/config.py from the metadata.
Read by finetune.py; the head's share of it by tasks/classification.py.
"""

from dataclasses import dataclass

from models.config import knob
from tasks.metrics import METRICS


@dataclass(frozen=True)
class TaskConfig:
    """A labelled set and what is learned from it."""

    source: str = knob("python_docs", "python_docs, tfds:NAME or files:/path/{train,test}.tsv")
    text: str = knob("text", "column of the text")
    text_pair: str = knob("", "column of the second text of a pair; empty: single texts")
    label: str = knob("label", "column of the label")
    validation_fraction: float = knob(
        0.1, "held out of train where the set has no validation split", min=0.001, max=0.9
    )
    length: int = knob(128, "tokens of an example; longer ones are cut", min=4)
    examples: int = knob(0, "labels that may be used, a stratified subset; 0: all", min=0)
    alike: int = knob(
        0,
        "steps whose examples are sorted by length, so that a batch of short ones is short; 0: none",
        min=0,
    )
    metric: str = knob("accuracy", "decides which step is best", choices=tuple(METRICS))
    head_dropout: float = knob(0.1, "before the classifier", min=0.0, max=0.99)
    pooler: bool = knob(False, "dense and activation before the classifier")
    pooler_activation: str = knob(
        "tanh",
        "of the pooler: tanh (BERT, RoBERTa, BART), relu (DistilBERT), gelu (ELECTRA, ModernBERT)",
        choices=("tanh", "relu", "gelu"),
    )
    pooler_norm: bool = knob(False, "LayerNorm behind the pooler, both without biases (ModernBERT)")
    head_bias: bool = knob(True, "a bias in the classifier (False: as published decoders)")
    reading: str = knob(
        "usual",
        "what is classified: the state of [CLS] or of the last token, or the mean of all; "
        "usual: mean for an encoder-decoder (of its decoder's states), else state",
        choices=("usual", "state", "mean"),
    )
    decoder_input: str = knob(
        "text",
        "what an encoder-decoder's decoder reads: the text again (BART) or its start token alone",
        choices=("text", "start"),
    )
