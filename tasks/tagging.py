"""Tagging of words: named entities, parts of speech, chunks. For all three architectures.

The head reads the state of one token of each word. An encoder-decoder is read at its encoder, as in
T5ForTokenClassification; its decoder is neither run nor trained.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data import tag_schemes, tagged
from data.examples import Column
from data.files import write_atomically
from models.config import option
from objectives.batch import Batch
from objectives.packing import apply_packed
from tasks import predictions, tag_scores, windows
from tasks.class_loss import ClassLossOptions, class_sums, example_weights
from tasks.labeled_task import LabeledTask
from tasks.loaded_labeled_task import LoadedLabeledTask
from tasks.pooled_task import HeadOptions
from tasks.windows import NONE, Windows


@dataclasses.dataclass(frozen=True)
class Tagging(ClassLossOptions, HeadOptions, LabeledTask):
    """A tag for each word of a sentence."""

    name: ClassVar[str] = "tagging"
    head_fields: ClassVar[tuple[str, ...]] = (*HeadOptions.head_fields, "subword")
    can_pack: ClassVar[bool] = True
    has_label_names: ClassVar[bool] = True
    peft_task_type: ClassVar[str] = "TOKEN_CLS"

    token_column: str = option(
        "tokens",
        "column of the words; in CoNLL a name or number, tokens: the first, in CoNLL-U form",
    )
    tag_column: str = option(
        "tags", "column of the tags; in CoNLL a name or number, tags: the last, in CoNLL-U upos"
    )
    text_column: str = option("text", "column of the text, with spans_column")
    spans_column: str = option(
        "", "column of labeled spans of characters, in place of words and tags; '': none"
    )
    scheme: str = option(
        "auto",
        "how tags write entities: bio (also IOB1), bioes (also BILOU, BMES), or none: plain tags; auto: by "
        "the tags of train",
        choices=("auto", *tag_schemes.SCHEMES),
    )
    metric: str = option(
        "auto",
        "chooses the best checkpoint; auto: f1 of entities, or accuracy without a scheme",
        choices=("auto", *tag_scores.ENTITY_METRICS, *tag_scores.WORD_METRICS),
    )
    subword: str = option(
        "auto",
        "token of a word whose state is read: first or last; auto: last for decoders, whose first one does "
        "not depend on the rest of the word",
        choices=("auto", "first", "last"),
    )
    label_all_subwords: bool = option(
        False, "the other tokens of a word have its tag in the loss, too; predictions read one"
    )
    max_seq_len: int = option(
        128, "tokens of a row; longer sentences are read in windows of as many", min=4
    )
    stride: int = option(
        -1, "tokens that two windows of a sentence share; -1: a quarter of a window", min=-1
    )

    def example_columns(self):
        names = (self.token_column, self.tag_column, self.text_column)
        if not all(names):
            raise ValueError(
                "task.token_column, task.tag_column and task.text_column must name columns, not ''"
            )
        return tagged.columns(*names, self.spans_column)

    def text_columns(self):
        return {"text": Column(self.text_column, "text_column")}

    def frozen_patterns(self, architecture):
        both = architecture == "encoder_decoder"
        return (r"(adapter/)?(decoder|embed/decoder_\w+)/.*",) if both else ()

    def complete_examples(self, splits, log):
        return {split: tagged.checked(examples) for split, examples in splits.items()}

    def read(self, log=lambda line: None):
        splits = tagged.load(
            self.source, self.example_columns(), self.scheme,
            dialect=self.dialect, missing=self.missing,
            validation_fraction=self.validation_fraction, log=log,
        )  # fmt: skip
        self.resolved_metric(self.resolved_scheme(splits.label_names))
        return splits

    def resolved_scheme(self, label_names) -> str:
        """The scheme of these tags. Raises ModuleNotFoundError if it cannot be scored."""
        scheme = tag_schemes.scheme_of(label_names, self.scheme)
        if scheme != "none":
            tag_scores.check_installed()
        return scheme

    def resolved_metric(self, scheme: str) -> str:
        """The metric for a scheme, `auto` resolved. Raises ValueError for one that it does not have."""
        known = tag_scores.WORD_METRICS
        if scheme != "none":
            known = (*tag_scores.ENTITY_METRICS, "accuracy")
        metric = known[0] if self.metric == "auto" else self.metric
        if metric not in known:
            raise ValueError(
                f"task.metric={metric!r} is no score of tags with scheme {scheme!r}: expected one of "
                f"{', '.join(known)}"
            )
        return metric

    def encode(self, examples, tokenizer, template, label_names, architecture) -> Windows:
        causal = architecture == "decoder"
        subword = self.subword
        if subword == "auto":
            subword = "last" if causal else "first"
        classes, inner = None, None
        numbers = {name: number for number, name in enumerate(label_names)}
        if examples.get("tags"):
            classes = [[numbers.get(tag, NONE) for tag in tags] for tags in examples.get("tags")]
        if self.label_all_subwords:
            # The state that is read has the word's tag, so B- becomes I- only after it.
            after = tag_schemes.inside if subword == "first" else str
            inner = np.array([numbers.get(after(name), numbers[name]) for name in label_names])
        capacity = self.max_seq_len - template.num_tokens
        return windows.encode(
            tagged.words_of(examples), classes, inner, tokenizer, template,
            length=self.max_seq_len, stride=capacity // 4 if self.stride < 0 else self.stride,
            subword=subword, causal=causal,
        )  # fmt: skip

    def loaded_fields(self, label_names, model_config, encoded, examples):
        labels = np.zeros(0, int)
        if "train" in encoded:
            train = encoded["train"]
            labels = train.targets[train.rows_of(examples)]
            labels = labels[labels >= 0]
        return {
            "head": self.head_module(len(label_names), **dataclasses.asdict(self)),
            "label_smoothing": self.label_smoothing,
            "class_weights": self.weight_of_classes(labels, label_names),
        }


@dataclasses.dataclass(frozen=True)
class LoadedTagging(LoadedLabeledTask):
    """Sentences, encoded. A row is a window of one."""

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of each tag in the loss; () if they are equal

    name = Tagging.name
    output_padding = 0

    @property
    def scheme(self) -> str:
        """none, bio or bioes."""
        return self.task.resolved_scheme(self.label_names)

    @property
    def best_metric(self):
        return f"+{self.task.resolved_metric(self.scheme)}"

    # ---- Traced ----------------------------------------------------------------------------------

    def hidden_states(self, apply, batch, deterministic):
        if self.model_config.architecture == "encoder_decoder":
            encode = functools.partial(apply, method="encode", deterministic=deterministic)
            encoder_batch = batch.replace(decoder_inputs=None)

            def states(inputs, _):
                return encode(inputs)[:, -inputs.tokens.shape[1] :]  # without a prompt's positions

            return apply_packed(states, encoder_batch)
        return super().hidden_states(apply, batch, deterministic)

    def head_inputs(self, hidden, batch):
        return hidden

    def losses(self, model, params, batch, dropout_rng):
        logits = super().outputs(model, params, batch, dropout_rng)
        loss, accuracy = class_sums(
            logits, batch.targets, batch.loss_weights, self.label_smoothing, self.class_weights
        )
        return {self.name: loss, "accuracy": accuracy}

    def loss_denominators(self, batch):
        weights = example_weights(batch.targets, batch.loss_weights, self.class_weights)
        return {self.name: weights.sum()}

    def outputs(self, model, params, batch, dropout_rng=None):
        """{'tag': int32[B, T] predicted class, 'probability': float32[B, T] of it, 'loss': float32[B, T]
        cross entropy of the target} of each token."""
        log_probs = jax.nn.log_softmax(super().outputs(model, params, batch, dropout_rng))
        target = jnp.take_along_axis(log_probs, batch.targets[..., None], axis=-1, mode="clip")
        return {
            "tag": log_probs.argmax(-1).astype(jnp.int32),
            "probability": jnp.exp(log_probs.max(-1)),
            "loss": -target[..., 0],
        }

    # ---- On the host -----------------------------------------------------------------------------

    def batch(self, split, indices, width=None) -> Batch:
        inputs, _ = self.model_inputs(split, indices, width)
        chosen, real = self.without_padding(indices)
        targets = self.encoded[split].targets[chosen][:, :width]
        has_target = real[:, None] & (targets >= 0)
        return Batch(
            inputs=inputs,
            decoder_inputs=self.decoder_inputs(inputs, 1),
            targets=np.where(has_target, targets, 0).astype(np.int32),
            loss_weights=has_target.astype(np.float32),
        )

    def collect(self, split, outputs):
        """{'tag', 'probability', 'loss'}: arrays [w] over the words of a split, each predicted once."""
        rows, words = super().collect(split, outputs), self.encoded[split].words
        found = {}
        for name, values in rows.items():
            found[name] = np.zeros(self.encoded[split].first_words[-1], values.dtype)
            found[name][words[words >= 0]] = values[words >= 0]
        return found

    def _tags(self, split, predictions):
        """The predicted tags of each sentence."""
        names = np.array(self.label_names, object)[predictions["tag"]].tolist()
        starts = self.encoded[split].first_words.tolist()
        return [names[a:b] for a, b in zip(starts, starts[1:], strict=False)]

    def score(self, split, predictions):
        gold, labels = self.texts[split].get("tags"), self.encoded[split].labels
        if not gold:
            return {}
        values = tag_scores.score(gold, self._tags(split, predictions), self.scheme)
        return values | {"loss": float(predictions["loss"][labels >= 0].astype(np.float64).mean())}

    def prediction_rows(self, split, outputs):
        """{id, words, [tags,] predictions, probabilities, [spans]} of each sentence; `spans` are those of
        the predicted entities in a text that was read with spans."""
        examples, starts = self.texts[split], self.encoded[split].first_words
        words, gold = tagged.words_of(examples), examples.get("tags")
        for number, tags in enumerate(self._tags(split, outputs)):
            sure = outputs["probability"][starts[number] : starts[number + 1]]
            row = {"id": number, "words": words[number]}
            row |= {"tags": gold[number]} if gold else {}
            row |= {"predictions": tags, "probabilities": [round(float(p), 6) for p in sure]}
            if not examples.get("words") and self.scheme != "none":
                entities = tag_scores.entities_of(tags)
                row["spans"] = tagged.spans_of_tags(examples.text[number], entities)
            yield row

    def write_predictions(self, folder, split, outputs):
        """Writes predictions_SPLIT.jsonl, predictions_SPLIT.conll (word, tag, prediction: the input of
        conlleval) and, with labels, report_SPLIT.tsv (the scores of each type of entity, or tag)."""
        rows = list(self.full_rows(split, outputs))
        predictions.write(folder / f"predictions_{split}.jsonl", rows)
        lines = []
        for row in rows:
            columns = [["_".join(word.split()) or "_" for word in row["words"]]]
            columns += [row[key] for key in ("tags", "predictions") if key in row]
            lines += [" ".join(fields) for fields in zip(*columns, strict=True)] + [""]
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(folder / f"predictions_{split}.conll", text.encode())
        if gold := self.texts[split].get("tags"):
            scores = tag_scores.report(gold, self._tags(split, outputs), self.scheme)
            predictions.write(folder / f"report_{split}.tsv", scores)

    def flops_specs(self, params):
        params = dict(params)
        if self.model_config.architecture == "encoder_decoder":
            params.pop("decoder", None)
        return ((self.model_config, params, {self.name: self.abstract_batch.targets.shape[1]}),)

    def provenance(self, step):
        rows = super().provenance(step)
        for row in rows:
            sentence = int(self.encoded["train"].sentences[row["row"]])
            row["documents"] = [{"document": sentence, "file": "train", "number": sentence}]
        return rows

    def describe_labels(self):
        return f"{len(self.label_names)} tags"


Tagging.loaded_type = LoadedTagging
