"""Tasks on a text, or on a pair of texts, whose head reads one state: classification, multi-label
classification, regression, multiple choice.

The head reads the state of [CLS], of the last token, or the mean of all states.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from models.config import option
from objectives.batch import Batch
from tasks.base import resolve_pooling
from tasks.encoding import encode
from tasks.heads import ClassificationHead, pool_states
from tasks.labeled_task import LabeledTask
from tasks.loaded_labeled_task import LoadedLabeledTask


@dataclasses.dataclass(frozen=True)
class TextColumns:
    """The columns of tasks on a text, or on a pair of texts."""

    text_column: str = option("text", "column of the text")
    text_pair_column: str = option("", "column of the second text of a pair; '': single texts")
    label_column: str = option("label", "column of the label")

    def check_columns(self) -> None:
        """Raises ValueError for a column without a name."""
        if not (self.text_column and self.label_column):
            raise ValueError("task.text_column and task.label_column must name columns, not ''")


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The options of a head, as published heads have them."""

    head_fields: ClassVar[tuple[str, ...]] = (
        "pooler", "pooler_activation", "pooler_norm", "head_bias",
    )  # fmt: skip

    head_dropout_rate: float = option(0.1, "dropout before the classifier", min=0.0, max=0.99)
    pooler: bool = option(False, "dense layer and activation before the classifier")
    pooler_activation: str = option(
        "tanh",
        "activation of the pooler: tanh (BERT, RoBERTa, BART), relu (DistilBERT), gelu (ELECTRA, "
        "ModernBERT)",
        choices=("tanh", "relu", "gelu"),
    )
    pooler_norm: bool = option(
        False, "LayerNorm after the pooler, both without biases (ModernBERT)"
    )
    head_bias: bool = option(True, "bias of the classifier (published decoders have none)")

    @staticmethod
    def head_module(num_classes: int, **options) -> ClassificationHead:
        """The head for these options of the task (fields of this class)."""
        names = {"head_dropout_rate": "dropout_rate", "head_bias": "use_bias"}
        fields = {f.name for f in dataclasses.fields(ClassificationHead)}
        options = {names.get(name, name): value for name, value in options.items()}
        return ClassificationHead(
            num_classes, **{name: value for name, value in options.items() if name in fields}
        )


@dataclasses.dataclass(frozen=True)
class PooledTask(HeadOptions, LabeledTask):
    """A task whose head reads one state per text, per pair of texts, or per choice."""

    head_fields: ClassVar[tuple[str, ...]] = (
        *HeadOptions.head_fields, "pooling", "decoder_input",
    )  # fmt: skip

    can_pack: ClassVar[bool] = True

    pooling: str = option(
        "auto",
        "state that the head reads: [CLS] (encoders), the last token (decoders), or the mean; auto: cls, "
        "last, or mean for an encoder-decoder",
        choices=("auto", "cls", "last", "mean"),
    )
    decoder_input: str = option(
        "text",
        "input of an encoder-decoder's decoder: the text again (BART), or the start token alone",
        choices=("text", "start"),
    )

    def head_options(self, architecture):
        options = super().head_options(architecture)
        options["pooling"] = resolve_pooling(self.pooling, architecture)
        unused = () if self.pooler else ("pooler_activation", "pooler_norm")
        unused += () if architecture == "encoder_decoder" else ("decoder_input",)
        return {name: value for name, value in options.items() if name not in unused}

    def pooled_fields(self, num_outputs: int, model_config) -> dict:
        """The fields of LoadedPooledTask for a head of that many outputs."""
        return {
            "head": self.head_module(num_outputs, **dataclasses.asdict(self)),
            "pooling": resolve_pooling(self.pooling, model_config.architecture),
            "decoder_input": self.decoder_input,
        }

    def encode(self, examples, tokenizer, template, label_names, architecture):
        return encode(
            examples,
            tokenizer,
            template,
            self.max_seq_len,
            label_names,
            tokenizer.special_ids()["pad"],
        )

    def check_model(self, model_config):
        resolve_pooling(self.pooling, model_config.architecture)
        super().check_model(model_config)


@dataclasses.dataclass(frozen=True)
class LoadedPooledTask(LoadedLabeledTask):
    """A PooledTask with its data."""

    pooling: str = "cls"  # cls, last or mean
    decoder_input: str = "text"

    def head_inputs(self, hidden, batch):
        return pool_states(hidden, batch, self.pooling)

    def batch(self, split, indices, width=None) -> Batch:
        inputs, lengths = self.model_inputs(split, indices, width)
        architecture = self.model_config.architecture
        reads_text = self.decoder_input == "text"
        positions = np.zeros_like(lengths)
        if architecture == "decoder" or (architecture == "encoder_decoder" and reads_text):
            positions = np.maximum(lengths - 1, 0)
        targets, weights = self.targets(split, indices)
        return Batch(
            inputs=inputs,
            decoder_inputs=self.decoder_inputs(inputs, None if reads_text else 1),
            targets=targets,
            loss_weights=weights,
            target_positions=positions[:, None].astype(np.int32),
        )

    def targets(self, split, indices):
        """(targets [B, N], float32[B, N] their weights) of the examples int[B]; weight 0: no label."""
        raise NotImplementedError
