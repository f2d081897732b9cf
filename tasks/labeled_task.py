"""The base class of tasks on labeled examples: their options, and the way from text to arrays.

Between data/examples.py and a file per task, which adds the columns, the head, the loss and the metrics.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from data import labeled, vectors
from data.examples import Column, Examples
from data.special_tokens import SpecialTokenTemplate, template_for
from data.tables import Dialect
from models.config import ModelConfig, option
from tasks import example_order
from tasks.base import Task, check_memory
from tasks.encoding import Encoded
from tasks.loaded_labeled_task import LoadedLabeledTask


@dataclasses.dataclass(frozen=True)
class LabeledTask(Task):
    """A task on a labeled dataset. Subclasses define `loaded_type`, `example_columns`, `read`, `encode` and
    `loaded_fields`."""

    loaded_type: ClassVar[type]  # a LoadedLabeledTask
    # Options that decide what a trained head computes: another run keeps a head if these agree.
    head_fields: ClassVar[tuple[str, ...]] = ()
    # problem_type of the transformers sequence classifier with this head; '': there is none.
    hf_problem_type: ClassVar[str] = ""
    hf_head_needs: ClassVar[dict] = {}  # {option: value} that this classifier requires
    can_pack: ClassVar[bool] = False  # its model reads one row per example, through `apply_packed`
    length_options: ClassVar[tuple[str, ...]] = ("max_seq_len",)  # those that decide `longest`

    source: str = option("python_docs", "python_docs, tfds:NAME or files:/path/{train,test}.tsv")
    splits: tuple = option(
        (),
        "TFDS splits to use: ('validation=validation_mismatched',); splits that are not listed are "
        "recognized by name",
    )
    columns: tuple = option((), "names of the columns of TSV and CSV files without a header")
    delimiter: str = option("", "between the fields, such as ';'; '': tab for TSV, comma for CSV")
    quoting: str = option(
        "auto",
        "minimal: double quotes enclose fields; none: they are text; auto: none if tabs are between "
        "fields (GLUE), otherwise minimal",
        choices=("auto", "none", "minimal"),
    )
    missing: str = option(
        "error", "rows without a text or a label: an error, or dropped", choices=("error", "drop")
    )
    validation_fraction: float = option(
        0.1,
        "share of the train rows of each label used for validation if there is no such split",
        min=0.001,
        max=0.9,
    )
    max_seq_len: int = option(128, "tokens of an example; longer ones are truncated", min=4)
    attention: str = option(
        "causal",
        "decoders only: causal, or bidirectional (for models pretrained with mntp or hybrid)",
        choices=("causal", "bidirectional"),
    )
    num_train_examples: int = option(
        0, "training examples to use, a stratified subset; 0: all", min=0
    )
    length_group_steps: int = option(
        0, "steps whose examples are sorted by length, then cut into batches; 0: off", min=0
    )

    packing: bool = option(
        False, "the model reads several short examples in one row, isolated from each other"
    )

    @property
    def dialect(self) -> Dialect:
        """How the source is written."""
        return Dialect(self.columns, self.delimiter, self.quoting, self.splits)

    def example_columns(self) -> dict[str, Column]:
        """{role: Column} of an example, labels included: what `read` reads, and tools.predict without the
        labels. Raises ValueError for options that name no columns."""
        raise NotImplementedError

    def text_columns(self) -> dict[str, Column]:
        """{role: Column} of an example that is a text, or several, in the order of tools.predict's flags:
        by default all columns but the labels. A task that reads other values may read texts, too."""
        columns = self.example_columns()
        return {role: column for role, column in columns.items() if not column.is_label}

    def complete_examples(self, splits: dict[str, Examples], log) -> dict[str, Examples]:
        """{split: Examples} as the task needs them, from the columns, with labels or without; `read`
        and tools.predict call it. Raises ValueError of one line."""
        return splits

    def for_predictions(self) -> "LabeledTask":
        """The task with the options that new examples are predicted with."""
        return self

    def head_options(self, architecture: str) -> dict[str, Any]:
        """{name: value} of `head_fields`, with the values that hold for an architecture."""
        return {name: getattr(self, name) for name in self.head_fields}

    def read(self, log=lambda line: None) -> labeled.LabeledSplits:
        """The labeled dataset, as text. Raises FileNotFoundError or ValueError, in one line."""
        raise NotImplementedError

    def encode(
        self, examples, tokenizer, template: SpecialTokenTemplate, label_names, architecture: str
    ) -> Encoded:
        """The examples of a split as arrays. Raises ValueError of one line."""
        raise NotImplementedError

    def loaded_fields(self, label_names, model_config, encoded: dict, examples) -> dict[str, Any]:
        """The fields that `loaded_type` adds to LoadedLabeledTask.

        Args:
          label_names: those of `read`.
          model_config: ModelConfig.
          encoded: {split: Encoded}.
          examples: int64[n], the training examples in the label budget.
        """
        raise NotImplementedError

    def load(
        self, config, model_config, tokenizer_file, log, *, process_index=0, process_count=1,
        batch_divisor=1,
    ) -> LoadedLabeledTask:  # fmt: skip
        self.check_model(model_config)
        splits = self.read(log)
        return self.assemble(
            splits,
            config,
            model_config,
            tokenizer_file,
            log,
            process_index=process_index,
            process_count=process_count,
            batch_divisor=batch_divisor,
        )

    def assemble(
        self, splits: labeled.LabeledSplits, config, model_config, tokenizer_file, log, *,
        process_index=0, process_count=1, batch_divisor=1,
    ) -> LoadedLabeledTask:  # fmt: skip
        """The loaded task of examples that have been read. Splits may be any, such as one of new texts
        without labels for which a finetuned model predicts. Arguments as in `load`."""
        tokenizer, model_config = self.open_tokenizer(tokenizer_file, model_config)
        if tokenizer.is_word_level and "train" in splits:
            texts = [text for column in splits["train"].columns.values() for text in column]
            texts = [text for text in texts if isinstance(text, str)]
            texts += [" ".join(words) for words in splits["train"].get("words") or ()]
            log(
                f"vocabulary coverage of the training examples: {vectors.coverage(tokenizer, texts)}"
            )
        special_ids = tokenizer.special_ids()
        architecture = model_config.architecture
        template = template_for(architecture, special_ids, tokenizer.template)
        encoded = {
            split: self.encode(examples, tokenizer, template, splits.label_names, architecture)
            for split, examples in splits.items()
        }
        chosen = np.zeros(0, np.int64)
        if "train" in encoded:
            chosen = example_order.stratified_subset(
                encoded["train"].strata, self.num_train_examples, config.seed.data
            )
        return self.loaded_type(
            **self.loaded_fields(splits.label_names, model_config, encoded, chosen),
            model_config=model_config,
            pad=max(special_ids["pad"], 0),
            start=special_ids["start"],
            batch_size=config.training.batch_size,
            task=self,
            tokenizer=tokenizer,
            label_names=tuple(splits.label_names),
            texts=dict(splits),
            encoded=encoded,
            examples=chosen,
            fingerprint=splits.fingerprint,
            seed=config.seed.data,
            grad_accum_steps=config.training.grad_accum_steps,
            batch_divisor=batch_divisor,
            eval_batch_size=-(-config.evaluation.batch_size // batch_divisor) * batch_divisor,
            process_index=process_index,
            process_count=process_count,
        )

    def check_model(self, model_config: ModelConfig) -> None:
        """Raises ValueError if the options do not fit the model or each other."""
        if self.packing and self.length_group_steps:
            raise ValueError(
                f"task.packing=True and task.length_group_steps={self.length_group_steps} both avoid "
                "padding: choose one of them"
            )
        if self.packing and not self.can_pack:
            raise ValueError(
                f"task.packing=True does not work with task.name={self.name!r}: set task.length_group_steps "
                "instead"
            )
        if self.attention == "bidirectional" and model_config.architecture != "decoder":
            raise ValueError(
                "task.attention='bidirectional' is an option of decoders, but init_from is an "
                f"{model_config.architecture}, whose encoder reads in both directions anyway: leave it out"
            )
        length = self.longest(model_config.architecture)
        if model_config.positions == "learned" and length > model_config.max_length:
            given = " and ".join(
                f"task.{name}={getattr(self, name)}" for name in self.length_options
            )
            raise ValueError(
                f"{given}, but the pretrained model has {model_config.max_length} learned positions: "
                "set it to at most that"
                + f", both together if they share a row ({length} tokens)"
                * (length > self.max_seq_len)
            )

    def longest(self, architecture: str) -> int:
        """Tokens of the longest sequence that a model reads."""
        return self.max_seq_len

    def load_without_data(self, config, model_config, tokenizer_file):
        self.check_model(model_config)
        check_memory("task.max_seq_len", self.max_seq_len, config.training.batch_size, model_config)
