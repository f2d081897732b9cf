"""Evaluation by generation: the texts that a model generates for the sources of a split, and their scores.

Between generation/ and tasks/seq2seq.py. Several rows with one source are references of one text.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jax.experimental import multihost_utils

from generation import GenerationConfig, Prompt, generate
from models.config import option
from tasks import generation_metrics
from tasks.base import Task


@dataclasses.dataclass(frozen=True)
class GenerationOptions(Task):
    """The options of evaluation by generation."""

    metric: str = option(
        "loss",
        "chooses the best checkpoint: the loss of the targets, or a score of generated texts",
        choices=("loss", *generation_metrics.METRIC_OF),
    )
    generation_metrics: tuple = option(
        ("bleu", "chrf"),
        f"scores of generated texts: some of {', '.join(generation_metrics.METRICS)}",
    )
    num_generated: int = option(
        0, "validation sources whose targets are generated at each evaluation; 0: none", min=0
    )
    final_generation: bool = option(
        False, "the final scores are of generated texts too, for all validation and test sources"
    )
    num_beams: int = option(1, "beams of the final scores and of tools.predict; 1: greedy", min=1)
    length_penalty: float = option(
        1.0, "beams are ranked by log-probability / length ** this", min=-10.0, max=10.0
    )

    def check_generation(self) -> None:
        """Raises ValueError for options that do not fit each other, and for a package that is missing."""
        if self.num_generated or self.final_generation:
            generation_metrics.check(self.generation_metrics)
        self.generation_config(1, 1, is_final=True)
        if self.metric == "loss":
            return
        if not self.num_generated:
            raise ValueError(
                f"task.metric={self.metric!r} is of generated texts, but task.num_generated=0: set it to how "
                "many are generated at each evaluation"
            )
        needed = generation_metrics.METRIC_OF[self.metric]
        if needed not in self.generation_metrics:
            raise ValueError(
                f"task.metric={self.metric!r}, but task.generation_metrics={self.generation_metrics!r} does "
                f"not compute it: add {needed!r}"
            )

    def for_predictions(self):
        """The prediction of a new source is the text that is generated."""
        return dataclasses.replace(self, final_generation=True)

    def generation_config(self, max_new_tokens: int, batch_size: int, is_final: bool):
        """The GenerationConfig: greedy search during training; at the end, the search of the options."""
        own = {"num_beams": self.num_beams, "length_penalty": self.length_penalty}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            batch_size=max(batch_size, self.num_beams),
            **(own if is_final else {}),
        )


@dataclasses.dataclass(frozen=True)
class GeneratedTexts:
    """What was generated for the sources of a split, one text each, and how good it is.

    Attributes:
      rows: int[m], the first row of each source.
      scores: float[m], log-probabilities; of beams, divided by length ** length_penalty.
      metrics, signatures: {score: percent} and {metric: signature}; {} without references.
    """

    rows: np.ndarray
    texts: list[str]
    scores: list[float]
    finish_reasons: list[str]
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    signatures: dict[str, str] = dataclasses.field(default_factory=dict)

    def describe(self, number: int | None) -> dict:
        """The prediction of a source, as predictions files have it; without one ('') for None."""
        if number is None:
            return dict.fromkeys(("prediction", "score", "finish_reason"), "")
        return {
            "prediction": self.texts[number],
            "score": round(self.scores[number], 6),
            "finish_reason": self.finish_reasons[number],
        }


class Predictions(NamedTuple):
    """The outputs float[n, 2] of LoadedSeq2seq, and the generated texts, if there are any."""

    outputs: np.ndarray
    generated: GeneratedTexts | None = None


def unpacked(predictions) -> Predictions:
    """Predictions as (outputs, generated)."""
    return predictions if isinstance(predictions, Predictions) else Predictions(predictions)


class GenerationMixin:
    """The part of LoadedSeq2seq that generates, which has the fields that are read here."""

    def with_generated(self, predictions, generated):
        return Predictions(predictions, generated)

    @functools.cached_property
    def _groups(self) -> dict[str, dict[str, list[int]]]:
        return {}

    def groups(self, split: str) -> dict[str, list[int]]:
        """{source: its rows} of a split, in the order of the first rows."""
        if split not in self._groups:
            found = self._groups[split] = {}
            for row, text in enumerate(self.texts[split].get("source")):
                found.setdefault(text, []).append(row)
        return self._groups[split]

    def num_to_generate(self, split: str, is_final: bool) -> int:
        """How many sources of a split are generated for: at an evaluation during training, or at the end."""
        count = len(self.groups(split))
        if is_final:
            return count if self.task.final_generation else 0
        return min(count, self.task.num_generated)

    def generate(self, split, model, params, mesh, is_final, count):
        """The GeneratedTexts of the first `count` sources of a split. Each process generates a share of
        them, and all have all of them.

        Args:
          model, params, mesh: of this process alone where there are several.
        """
        rows = np.array([group[0] for group in self.groups(split).values()][:count])
        share = rows[self.process_index :: self.process_count]
        encoded, width = self.encoded[split], self.task.max_target_len
        both = self.model_config.architecture == "encoder_decoder"
        own = {"decoder_tokens": np.array([self.start], np.int32)} if both else {}
        is_prefix = self.model_config.architecture == "decoder" and self.attention == "prefix"
        prompts = [
            Prompt(encoded.tokens[row, : encoded.lengths[row]], prefix=is_prefix, **own)
            for row in share
        ]
        config = self.task.generation_config(width, self.eval_batch_size, is_final)
        eos_ids = (self.tokenizer.special_ids()["eos"],)
        found = generate(model, params, prompts, config, eos_ids=eos_ids, mesh=mesh)
        generated = self._gathered(rows, [best for best, *_ in found], width)
        references = self.references(split, generated)
        if not references:
            return generated
        names = self.task.generation_metrics
        metrics, signatures = generation_metrics.score(names, generated.texts, references)
        return dataclasses.replace(generated, metrics=metrics, signatures=signatures)

    def _gathered(self, rows, generated, width):
        """The GeneratedTexts of `rows` from what each process has generated."""
        most = -(-len(rows) // self.process_count)
        tokens, scores = np.full((most, width), -1, np.int32), np.zeros((most, 2), np.float32)
        for place, each in enumerate(generated):
            tokens[place, : len(each.tokens)] = each.tokens
            scores[place] = each.score, each.finish_reason == "stop"
        if self.process_count > 1:
            tokens, scores = multihost_utils.process_allgather((tokens, scores))
            # [process, place, ...] -> the order of the rows
            tokens, scores = (
                np.swapaxes(x, 0, 1).reshape(-1, x.shape[-1]) for x in (tokens, scores)
            )
        texts = [
            self.tokenizer.decode(ids[ids >= 0], skip_specials=True) for ids in tokens[: len(rows)]
        ]
        reasons = ["stop" if stopped else "length" for _, stopped in scores[: len(rows)]]
        return GeneratedTexts(rows, texts, scores[: len(rows), 0].tolist(), reasons)

    def references(self, split: str, generated: GeneratedTexts) -> list[list[str]]:
        """The references of each generated text; [] for a split without targets."""
        targets, groups = self.texts[split].get("target"), self.groups(split)
        if not targets:
            return []
        sources = self.texts[split].get("source")
        return [[targets[i] for i in groups[sources[row]]] for row in generated.rows]

    def text_of_row(self, split: str, generated: GeneratedTexts) -> dict[int, int]:
        """{row: index of its text}."""
        sources, groups = self.texts[split].get("source"), self.groups(split)
        pairs = enumerate(generated.rows)
        return {row: n for n, first in pairs for row in groups[sources[first]]}

    def samples(self, split, predictions):
        generated = unpacked(predictions).generated
        if generated is None:
            return []
        references = self.references(split, generated) or [[""]] * len(generated.texts)
        sources = [self.texts[split].get("source")[row] for row in generated.rows]
        rows = zip(sources, generated.texts, references, strict=True)
        return [(source, text, own[0]) for source, text, own in rows]
