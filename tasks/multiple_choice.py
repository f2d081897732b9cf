"""Multiple choice: the right one of the choices of a question, for all three architectures.

Each choice is read with the question, and a head of one output scores it (BERT on SWAG; Devlin et al.
2019, section 4.4). Rows may have different numbers of choices.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data import labeled, targets
from data.examples import Column, Examples, as_label, read
from models.config import option
from tasks import predictions
from tasks.class_loss import class_sums
from tasks.encoding import Encoded
from tasks.example_order import PADDING
from tasks.loaded_labeled_task import most_frequent
from tasks.metrics import choice_scores
from tasks.pooled_task import LoadedPooledTask, PooledTask

_ABSENT = -1e9  # the logit of a choice that a row lacks


@dataclasses.dataclass(frozen=True)
class MultipleChoice(PooledTask):
    """The right one of several choices."""

    name: ClassVar[str] = "multiple_choice"
    can_pack: ClassVar[bool] = False  # a question has a row for each choice

    metric: str = option("accuracy", "chooses the best checkpoint", choices=("accuracy",))
    text_column: str = option("question", "column of the question, or of a sentence to complete")
    context_column: str = option(
        "", "column of a passage before the question; the question then begins the second text"
    )
    choices_column: str = option("choices", "column with the list of choices")
    choice_columns: tuple = option(
        (), "a column for each choice, in place of choices_column, such as ('ending0', 'ending1')"
    )
    choice_first: bool = option(False, "a choice precedes the text (WinoGrande's continuations)")
    label_column: str = option("label", "column that names the right choice")
    label_form: str = option(
        "auto",
        "how label_column names the choice: by index from 0 or from 1, letter, text, or column name; "
        "auto: the form that fits every row",
        choices=("auto", *targets.ANSWER_FORMS),
    )

    def example_columns(self):
        columns = {"text": Column(self.text_column, "text_column")}
        # The first column: examples with the same passage stay in one split.
        if self.context_column:
            columns = {"context": Column(self.context_column, "context_column"), **columns}
        if self.choice_columns:
            self._check_choice_columns()
            columns |= {
                f"choice {n}": Column(name, "choice_columns", is_optional=n > 1)
                for n, name in enumerate(self.choice_columns)
            }
        else:
            columns["choices"] = Column(self.choices_column, "choices_column", targets.as_choices)
        columns["label"] = Column(self.label_column, "label_column", as_label, is_label=True)
        return columns

    def read(self, log=lambda line: None):
        found = read(self.source, self.example_columns(), self.dialect, self.missing, log=log)
        splits = self.complete_examples(found, log)
        return labeled.complete(
            self.source, splits, (), self.validation_fraction, log, ("context", "text", "choices")
        )

    def complete_examples(self, splits, log):
        """With the columns `choices`, lists, and `answer`, the index of the right one."""
        splits = {split: self._with_choices(examples) for split, examples in splits.items()}
        known = [examples for examples in splits.values() if examples.label]
        answers = iter(targets.answers(
            [label for each in known for label in each.label],
            [choices for each in known for choices in each.get("choices")],
            [place for each in known for place in each.places],
            self.choice_columns, self.label_form,
        ))  # fmt: skip
        for examples in known:
            examples.columns["answer"] = [next(answers) for _ in range(len(examples))]
            del examples.columns["label"]
        return splits

    def _check_choice_columns(self):
        names = self.choice_columns
        if len({*names}) < 2 or len({*names}) < len(names) or not all(
            name and isinstance(name, str) for name in names
        ):  # fmt: skip
            raise ValueError(
                f"task.choice_columns={names!r}: expected the names of at least two different columns"
            )

    def _with_choices(self, examples: Examples) -> Examples:
        """The examples with the choices of their columns as lists; a row may lack the last ones."""
        found = examples.get("choices") or []
        each = [examples.columns[f"choice {n}"] for n in range(len(self.choice_columns))]
        for row, choices in enumerate(zip(*each, strict=True)):
            there = [choice for choice in choices if choice is not None]
            if None in choices[: len(there)]:
                missing = self.choice_columns[choices.index(None)]
                raise ValueError(
                    f"{examples.places[row]} has no choice in column {missing!r}, and one in a later column: "
                    "only the last choices of a row may be missing; correct it"
                )
            found.append(there)
        return dataclasses.replace(examples, columns=examples.columns | {"choices": found})

    def encode(self, examples, tokenizer, template, label_names, architecture):
        choices = examples.get("choices")
        counts = np.array([len(each) for each in choices], np.int32)
        first, second = [], []
        contexts = examples.get("context") or [None] * len(examples)
        for context, text, each in zip(contexts, examples.text, choices, strict=True):
            for choice in each:
                pair = (text, choice) if context is None else (context, f"{text} {choice}")
                first.append(pair[self.choice_first])
                second.append(pair[not self.choice_first])
        rows = super().encode(
            Examples({"text": first, "text_pair": second}), tokenizer, template, (), architecture
        )
        starts = np.cumsum(counts) - counts
        longest = np.maximum.reduceat(rows.lengths, starts)
        answers = examples.get("answer")
        return EncodedChoices(
            rows.tokens, longest, rows.token_type_ids,
            np.array([-1] * len(examples) if answers is None else answers, np.int32),
            rows.num_truncated, rows.num_unknown, rows.num_tokens, rows, starts, counts,
        )  # fmt: skip

    def loaded_fields(self, label_names, model_config, encoded, examples):
        largest = max(int(each.counts.max()) for each in encoded.values())
        return self.pooled_fields(1, model_config) | {"num_choices": largest}


@dataclasses.dataclass(frozen=True)
class EncodedChoices(Encoded):
    """A split of questions as arrays. `lengths` are of the longest choice, `labels` the indices of the
    right choices; `rows` has a row for each choice; question i starts at row starts[i]."""

    rows: Encoded | None = None
    starts: np.ndarray | None = None  # int[n]
    counts: np.ndarray | None = None  # int32[n] choices of each question

    def describe_truncated(self, name, task):
        if not self.num_truncated:
            return []
        return [
            f"{self.num_truncated:,} of {len(self.rows):,} {name} choices with their texts were truncated to "
            f"{task.max_seq_len} tokens"
        ]


@dataclasses.dataclass(frozen=True)
class LoadedMultipleChoice(LoadedPooledTask):
    """A labeled set of questions, encoded. Arrays of a batch are [B, C, ...], so that it divides into
    microbatches by questions; the model reads [B * C, ...]."""

    num_choices: int = 2  # C, of the question with most

    name = MultipleChoice.name
    name_of_target = str

    def tokens_read(self, shape):
        return super().tokens_read(shape) * self.num_choices

    def model_batch(self, batch):
        def rows(tree):
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

        return batch.replace(
            inputs=rows(batch.inputs),
            decoder_inputs=rows(batch.decoder_inputs),
            target_positions=rows(batch.target_positions),
        )

    def outputs(self, model, params, batch, dropout_rng=None):
        """The logits float32[B, C] of the choices."""
        logits = super().outputs(model, params, batch, dropout_rng)
        logits = logits.reshape(batch.inputs.tokens.shape[:2])
        there = batch.inputs.segment_ids[:, :, 0] > 0
        return jnp.where(there, logits, jnp.float32(_ABSENT))

    def losses(self, model, params, batch, dropout_rng):
        logits = self.outputs(model, params, batch, dropout_rng)
        loss, accuracy = class_sums(logits, batch.targets[:, 0], batch.loss_weights[:, 0])
        return {self.name: loss, "accuracy": accuracy}

    def loss_denominators(self, batch):
        return {self.name: batch.loss_weights.sum()}

    def batch(self, split, indices, width=None):
        """Rows of choices, made as by the base class, and one target per question."""
        encoded, (chosen, real) = self.encoded[split], self.without_padding(indices)
        places = np.arange(self.num_choices)[None]
        there = real[:, None] & (places < encoded.counts[chosen][:, None])
        rows = np.where(there, encoded.starts[chosen][:, None] + places, PADDING)
        batch = super().batch(split, rows.reshape(-1), width)
        split_rows = jax.tree.map(lambda x: x.reshape(*rows.shape, *x.shape[1:]), batch)
        answers = np.where(real, encoded.labels[chosen], -1)[:, None]
        return split_rows.replace(
            targets=np.maximum(answers, 0).astype(np.int32),
            loss_weights=(answers >= 0).astype(np.float32),
        )

    def model_inputs(self, split, indices, width=None):
        return self.inputs_of(self.encoded[split].rows, indices, width)

    def targets(self, split, indices):
        """Placeholders: `batch` sets the targets of the questions."""
        return np.zeros((len(indices), 1), np.int32), np.zeros((len(indices), 1), np.float32)

    def flops_specs(self, params):
        return super().flops_specs(params) * self.num_choices

    def score(self, split, predictions):
        answers = self.encoded[split].labels
        return choice_scores(answers, predictions) if (answers >= 0).all() else {}

    def constant_output(self):
        return most_frequent(self.encoded["train"].labels, self.num_choices)

    def prediction_rows(self, split, outputs):
        choices = self.texts[split].get("choices")
        return predictions.choice_rows(choices, self.encoded[split].labels, outputs)

    def describe_labels(self):
        counts = np.concatenate([each.counts for each in self.encoded.values()])
        fewest = f"{counts.min()} to " if counts.min() < counts.max() else ""
        return f"{fewest}{counts.max()} choices"


MultipleChoice.loaded_type = LoadedMultipleChoice
