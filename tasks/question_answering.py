"""Span question answering: the answer is a span of the context, or none (SQuAD 1.1 and 2.0).

Devlin et al. 2019, sections 4.2 and 4.3: a start and an end logit for each token of the context. A context
that is longer than a window is read in several. An encoder-decoder's decoder reads the text again (BART).
"""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from data import labeled, squad
from data.examples import Column, Examples, read
from data.files import digest, write_atomically
from models.config import option
from objectives.batch import Batch
from tasks import predictions, squad_metrics
from tasks.heads import ClassificationHead
from tasks.labeled_task import LabeledTask
from tasks.loaded_labeled_task import LoadedLabeledTask
from tasks.span_predictions import best_spans, probabilities
from tasks.span_windows import encode_windows

_MASKED = -1e9  # logit of a position that no answer has


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(LabeledTask):
    """A span of a context per question."""

    name: ClassVar[str] = "question_answering"
    can_pack: ClassVar[bool] = True
    peft_task_type: ClassVar[str] = "QUESTION_ANS"
    output_names: ClassVar[tuple[str, ...]] = ("start", "end")
    head_fields: ClassVar[tuple[str, ...]] = ("pooler",)

    question_column: str = option("question", "column of the question")
    context_column: str = option("context", "column of the text that holds the answer")
    answers_column: str = option(
        "answers", "column of the answers: a text, a list of texts, or with starts, as in SQuAD"
    )
    answer_starts_column: str = option(
        "answer_starts",
        "column of the index of each answer's first character in the context, if there is one",
    )
    id_column: str = option(
        "id", "column of the question's id in predictions, if there is one; '': their number"
    )
    max_seq_len: int = option(
        384, "tokens of a window: the question and a part of its context", min=4
    )
    stride: int = option(128, "tokens that two windows of a context share", min=0)
    max_query_len: int = option(64, "tokens of a question; longer ones are truncated", min=1)
    max_answer_len: int = option(30, "tokens of a predicted answer at most", min=1)
    n_best: int = option(20, "spans per question in the predictions", min=1)
    no_answer: bool = option(False, "a question may have no answer (SQuAD 2.0)")
    no_answer_threshold: float = option(
        0.0, "no answer is predicted if its score minus the score of the best span is above this"
    )
    pooler: bool = option(
        False, "dense layer, GELU and LayerNorm before the output layer, as in ModernBERT"
    )
    head_dropout_rate: float = option(0.0, "dropout before the output layer", min=0.0, max=0.99)
    metric: str = option("f1", "chooses the best checkpoint", choices=("f1", "exact_match"))

    def example_columns(self):
        columns = {
            "context": Column(self.context_column, "context_column"),
            "question": Column(self.question_column, "question_column"),
            "answers": Column(
                self.answers_column, "answers_column", self._as_answers, is_label=True,
                takes_objects=True,
            ),
            "answer_starts": Column(
                self.answer_starts_column, "answer_starts_column", squad.as_starts, is_label=True,
                is_optional=True,
            ),
            "id": Column(self.id_column, "id_column", is_optional=True),
        }  # fmt: skip
        required = ("context", "question", "answers")
        if not all(columns[role].name for role in required):
            names = ", ".join(f"task.{role}_column" for role in required)
            raise ValueError(f"{names} must name columns, not ''")
        return columns

    def text_columns(self):
        columns = self.example_columns()
        return {role: columns[role] for role in ("question", "context")}

    def complete_examples(self, splits, log):
        """With 'answers' as [(text, start)] of each question, and an id for each."""
        return {
            name: _with_ids(name, self._located(name, examples, log), log)
            for name, examples in splits.items()
        }

    def read(self, log=lambda line: None):
        found = read(self.source, self.example_columns(), self.dialect, self.missing, log=log)
        splits = self.complete_examples(found, log)
        labeled.make_validation(self.source, splits, self.validation_fraction, log)
        splits["validation"] = _with_ids("validation", splits["validation"], log)
        pairs = {
            name: Examples({"text": each.get("context"), "text_pair": each.get("question")})
            for name, each in splits.items()
        }
        labeled.log_overlap(pairs, log)
        contents = {name: list(examples.columns.values()) for name, examples in splits.items()}
        return labeled.LabeledSplits(splits, digest(contents), self.output_names)

    def _as_answers(self, value):
        answers = squad.as_answers(value)
        if answers or (value is None and not self.no_answer):
            return answers
        if not self.no_answer and self.missing == "error":
            raise ValueError(
                "it has no answer: add one, set task.no_answer=True if questions may have none (SQuAD 2.0), "
                "or task.missing=drop to leave such rows out"
            )
        return [] if self.no_answer else None

    @staticmethod
    def _located(split, examples: Examples, log) -> Examples:
        columns = dict(examples.columns)
        starts = columns.pop("answer_starts", None)
        if "answers" in columns:
            answers = []
            for place, those, first in zip(
                examples.places, columns["answers"], starts, strict=True
            ):
                try:
                    answers.append(squad.with_starts(those, first))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from error
            columns["answers"] = squad.locate(
                split, columns["context"], answers, examples.places, log
            )
        return Examples(columns, examples.places)

    def encode(self, examples, tokenizer, template, label_names, architecture):
        return encode_windows(
            examples,
            tokenizer,
            template,
            length=self.max_seq_len,
            max_query_len=self.max_query_len,
            stride=self.stride,
            # The first state of a causal model has read one token.
            null_is_last=architecture == "decoder",
            pad=tokenizer.special_ids()["pad"],
        )

    def loaded_fields(self, label_names, model_config, encoded, examples):
        options = {"pooler": self.pooler, "head_dropout_rate": self.head_dropout_rate}
        return {"head": self.head_module(len(label_names), **options)}

    @staticmethod
    def head_module(
        num_outputs: int, pooler=False, head_dropout_rate=0.0, **options
    ) -> ClassificationHead:
        """The head for these options of the task; it has two outputs, whatever `num_outputs`."""
        return ClassificationHead(
            2, head_dropout_rate, pooler=pooler, pooler_activation="gelu", pooler_norm=pooler
        )


def _with_ids(split: str, examples: Examples, log) -> Examples:
    """The examples with an id each, by default their number. Raises ValueError for two with the same id in a
    split that is predicted, and for one without an id among others."""
    ids = examples.get("id") or [None]
    remedy = "or set task.id_column='' to number the questions"
    if not any(ids):
        if split != "train":
            log(f"the questions of {split} have no ids: predictions have their numbers")
        ids = [str(number) for number in range(len(examples))]
    elif None in ids:
        raise ValueError(f"{examples.places[ids.index(None)]} has no id: add it, {remedy}")
    first = {}
    for number, name in enumerate(ids):
        if split != "train" and first.setdefault(name, number) != number:
            raise ValueError(
                f"{examples.places[number]} has the id {name!r} of {examples.places[first[name]]}: "
                f"correct it, {remedy}"
            )
    return Examples(examples.columns | {"id": ids}, examples.places)


@struct.dataclass(kw_only=True)
class SpanBatch(Batch):
    """A Batch of windows: targets [B, 2] are the positions of the first and the last token."""

    allowed: jax.Array  # bool[B, T] positions that a target may have: the context and "no answer"


@dataclasses.dataclass(frozen=True)
class LoadedQuestionAnswering(LoadedLabeledTask):
    """Questions, with their contexts as windows."""

    name = QuestionAnswering.name
    output_padding = _MASKED

    def head_inputs(self, hidden, batch):
        return hidden

    def batch(self, split, indices, width=None) -> SpanBatch:
        inputs, lengths = self.model_inputs(split, indices, width)
        windows, (chosen, real) = self.encoded[split], self.without_padding(indices)
        places = np.arange(inputs.tokens.shape[1])
        low, high = windows.context[chosen].T[:, :, None]
        allowed = (places >= low) & (places < high) | (places == windows.null[chosen][:, None])
        return SpanBatch(
            inputs=inputs,
            decoder_inputs=self.decoder_inputs(inputs),
            targets=np.where(real[:, None], windows.spans[chosen], 0),
            loss_weights=np.repeat(real.astype(np.float32)[:, None], 2, axis=1),
            allowed=allowed & real[:, None],
        )

    def outputs(self, model, params, batch, dropout_rng=None):
        """Logits float32[B, T, 2] of the first and the last token of the answer."""
        logits = super().outputs(model, params, batch, dropout_rng)
        return jnp.where(batch.allowed[:, :, None], logits, jnp.float32(_MASKED))

    def losses(self, model, params, batch, dropout_rng):
        """The mean of the cross entropies of start and end, and the share of windows with both right."""
        logits = self.outputs(model, params, batch, dropout_rng)
        log_p = jax.nn.log_softmax(logits, axis=1)
        chosen = jnp.take_along_axis(log_p, batch.targets[:, None], axis=1)[:, 0]
        hits = (logits.argmax(1).astype(jnp.int32) == batch.targets).all(-1)
        weights = batch.loss_weights[:, 0]
        return {
            self.name: (-(chosen.mean(-1) * weights).sum(), weights.sum()),
            "accuracy": ((hits.astype(jnp.float32) * weights).sum(), weights.sum()),
        }

    def loss_denominators(self, batch):
        return {self.name: batch.loss_weights[:, 0].sum()}

    def constant_scores(self, split):
        """Of no answer, with `no_answer`."""
        windows, answers = self.encoded[split], self.texts[split].get("answers")
        if answers is None or not self.task.no_answer:
            return {}
        return {self.task.metric: float((~windows.has_answer).mean())}

    def flops_specs(self, params):
        return ((self.model_config, params, {self.name: self.task.max_seq_len}),)

    def collect(self, split, outputs):
        """SpanPredictions of the questions of a split."""
        return best_spans(
            self.encoded[split], super().collect(split, outputs), self.task.n_best,
            self.task.max_answer_len,
        )  # fmt: skip

    def score(self, split, predictions):
        examples = self.texts[split]
        if examples.get("answers") is None:
            return {}
        golds = [[text for text, _ in those] for those in examples.get("answers")]
        best, null_odds = predictions.best(examples.get("context"))
        if not self.task.no_answer:
            return squad_metrics.scores(best, golds)
        threshold = self.task.no_answer_threshold
        return squad_metrics.scores_with_no_answer(best, golds, null_odds, threshold)

    def prediction_rows(self, split, outputs):
        """{id, question, answers, prediction, probability, [null_odds,] nbest: [{text, start, probability,
        score}]} of each question: `start` in characters; the text of no answer is ''."""
        examples, no_answer = self.texts[split], self.task.no_answer
        best, null_odds = outputs.best(examples.get("context"))
        golds = examples.get("answers") or [None] * len(best)
        for i, context in enumerate(examples.get("context")):
            spans = list(outputs.spans(i, context))
            if no_answer or not spans:
                spans.append(("", -1, float(outputs.null_scores[i])))
            spans.sort(key=lambda span: -span[2])
            shares = probabilities([score for *_, score in spans])
            is_null = no_answer and null_odds[i] > self.task.no_answer_threshold
            prediction = "" if is_null else best[i]
            texts = [text for text, *_ in spans]
            yield {
                "id": examples.get("id")[i],
                "question": examples.get("question")[i],
                "answers": golds[i] and list(dict.fromkeys(text for text, _ in golds[i])),
                "prediction": prediction,
                "probability": shares[texts.index(prediction)],
                **({"null_odds": float(null_odds[i])} if no_answer else {}),
                "nbest": [
                    {"text": text, "start": start, "probability": p, "score": round(score, 4)}
                    for (text, start, score), p in zip(spans, shares, strict=True)
                ],
            }

    def write_predictions(self, folder, split, outputs):
        """Writes predictions_SPLIT.json, {id: text} as SQuAD's scripts read it, nbest_SPLIT.jsonl, and with
        `no_answer` null_odds_SPLIT.json, {id: odds}."""
        rows = list(self.full_rows(split, outputs))
        predictions.write(folder / f"nbest_{split}.jsonl", rows)
        files = {"predictions": "prediction"}
        files |= {"null_odds": "null_odds"} if self.task.no_answer else {}
        for name, key in files.items():
            values = {row["id"]: row[key] for row in rows}
            content = json.dumps(values, indent=1, ensure_ascii=False)
            write_atomically(folder / f"{name}_{split}.json", content.encode())

    def describe_labels(self):
        return "answers are spans"


QuestionAnswering.loaded_type = LoadedQuestionAnswering
