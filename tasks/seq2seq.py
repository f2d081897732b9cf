"""Sequence-to-sequence: a model reads a source and generates its target.

Translation, summarization, data-to-text; for encoder-decoders and decoders, with their own LM head.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data import examples as labeled_examples
from data import labeled
from data.examples import Column
from data.files import digest
from data.special_tokens import encode_example, pair_templates
from models.config import option
from models.inputs import ModelInputs
from objectives.batch import Batch
from objectives.lm_loss import lm_sums, lm_token_losses, target_hidden_states
from tasks.encoding import Encoded
from tasks.generated_texts import GenerationMixin, GenerationOptions, unpacked
from tasks.labeled_task import LabeledTask
from tasks.loaded_labeled_task import LoadedLabeledTask

SOURCE = "{source}"


@dataclasses.dataclass(frozen=True)
class Seq2seq(GenerationOptions, LabeledTask):
    """A target text for each source text. Several targets of a source are rows of their own."""

    name: ClassVar[str] = "seq2seq"
    can_pack: ClassVar[bool] = True
    length_options: ClassVar[tuple[str, ...]] = ("max_seq_len", "max_target_len")

    source_column: str = option("source", "column of the text that is read")
    target_column: str = option("target", "column of the text that is generated")
    prompt: str = option(
        SOURCE,
        "text around the source, such as 'translate English to German: {source}'; {source} is its place",
    )
    attention: str = option(
        "causal",
        "attention of a decoder: causal, or prefix, which is bidirectional over the source",
        choices=("causal", "prefix"),
    )
    max_target_len: int = option(128, "tokens of a target; longer ones are truncated", min=2)
    label_smoothing: float = option(
        0.0,
        "share of each target token that is spread evenly over the vocabulary",
        min=0.0,
        max=0.99,
    )

    def __post_init__(self):
        if self.prompt.count(SOURCE) != 1:
            raise ValueError(
                f"task.prompt={self.prompt!r} contains {SOURCE} {self.prompt.count(SOURCE)} times: write it "
                f"once, where the source goes, such as 'summarize: {SOURCE}'"
            )
        if not self.source_column or self.source_column == self.target_column:
            raise ValueError(
                f"task.source_column={self.source_column!r} and "
                f"task.target_column={self.target_column!r}: name two columns"
            )

    def example_columns(self):
        return {
            "source": Column(self.source_column, "source_column"),
            "target": Column(self.target_column, "target_column", is_label=True),
        }

    def read(self, log=lambda line: None):
        splits = labeled_examples.read(
            self.source, self.example_columns(), self.dialect, self.missing, log=log
        )
        labeled.make_validation(self.source, splits, self.validation_fraction, log)
        labeled.log_overlap(splits, log, ("source", "target"))
        return labeled.LabeledSplits(splits, digest({s: e.columns for s, e in splits.items()}), ())

    def encode(self, examples, tokenizer, template, label_names, architecture):
        special_ids = tokenizer.special_ids()
        own_source, own_target = pair_templates(architecture, special_ids, tokenizer.template)
        sources, cut_sources = self.encode_sources(examples.get("source"), tokenizer, own_source)
        texts = examples.get("target") or []
        plain = tokenizer.encode_batch(list(texts))
        targets = [encode_example(ids, None, own_target, self.max_target_len) for ids in plain]
        is_cut = [
            len(ids) < len(all_of_it) + own_target.num_tokens
            for ids, all_of_it in zip(targets, plain, strict=True)
        ]
        # The bytes that the loss of a target covers: of its text, or of the part that was not truncated.
        target_bytes = [
            len((tokenizer.decode(ids, skip_specials=True) if cut else text).encode())
            for text, ids, cut in zip(texts, targets, is_cut, strict=True)
        ]
        pad, unknown = max(special_ids["pad"], 0), special_ids["unk"]
        tokens, lengths = pad_rows(sources, self.max_seq_len, pad)
        target_tokens, target_lengths = pad_rows(
            targets or [[]] * len(sources), self.max_target_len, pad
        )
        every = [*sources, *plain]
        return EncodedPairs(
            tokens=tokens,
            lengths=lengths,
            token_type_ids=np.zeros_like(tokens),
            labels=np.full(len(tokens), -1, np.int32),
            num_truncated=cut_sources,
            num_unknown=sum(int((ids == unknown).sum()) for ids in every),
            num_tokens=sum(map(len, every)),
            target_tokens=target_tokens,
            target_lengths=target_lengths,
            target_bytes=np.array(target_bytes or [0] * len(sources)),
            num_targets_truncated=sum(is_cut),
        )

    def encode_sources(self, texts, tokenizer, template) -> tuple[list[np.ndarray], int]:
        """(the prompts of the sources int32[<= max_seq_len] each; how many sources were truncated). What
        follows the source in the prompt is kept. Raises ValueError if the prompt leaves no place."""
        before, after = self.prompt.split(SOURCE)
        tail = tokenizer.encode(after)
        with_tail = dataclasses.replace(template, suffix=(*tail.tolist(), *template.suffix))
        around = len(tokenizer.encode(before)) + with_tail.num_tokens
        if around >= self.max_seq_len:
            raise ValueError(
                f"task.max_seq_len={self.max_seq_len}, but task.prompt alone takes {around} tokens: "
                "raise it, or shorten the prompt"
            )
        found, cut = [], 0
        prompts = tokenizer.encode_batch([f"{before}{text}{after}" for text in texts])
        for text, ids in zip(texts, prompts, strict=True):
            if len(ids) + template.num_tokens <= self.max_seq_len:
                found.append(encode_example(ids, None, template, self.max_seq_len))
                continue
            body = tokenizer.encode(f"{before}{text}") if after else ids
            found.append(encode_example(body, None, with_tail, self.max_seq_len))
            cut += 1
        return found, cut

    def loaded_fields(self, label_names, model_config, encoded, examples):
        return {
            "head": None,
            "attention": self.attention,
            "label_smoothing": self.label_smoothing,
        }

    def longest(self, architecture):
        both = (self.max_seq_len, self.max_target_len)
        return sum(both) if architecture == "decoder" else max(both)

    def check_model(self, model_config):
        architecture = model_config.architecture
        if architecture == "encoder":
            raise ValueError(
                "task.name='seq2seq' generates text, which an encoder cannot: set init_from to a decoder "
                "or an encoder-decoder"
            )
        if self.attention == "prefix" and architecture != "decoder":
            raise ValueError(
                f"task.attention='prefix' is an option of decoders, but init_from is an {architecture}, "
                "whose encoder reads the source in both directions anyway: set it to 'causal'"
            )
        self.check_generation()
        super().check_model(model_config)


def pad_rows(rows, width: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(int32[n, width] of rows int[<= width] each, padded at the end; int32[n] their lengths)."""
    tokens = np.full((len(rows), width), pad, np.int32)
    for place, ids in zip(tokens, rows, strict=True):
        place[: len(ids)] = ids
    return tokens, np.array([len(ids) for ids in rows], np.int32)


@dataclasses.dataclass(frozen=True)
class EncodedPairs(Encoded):
    """Sources (in the fields of Encoded) and targets, in the order of the examples."""

    # No defaults, so that `encode` must set every field.
    target_tokens: np.ndarray = dataclasses.field(kw_only=True)  # int32[n, max_target_len]
    target_lengths: np.ndarray = dataclasses.field(kw_only=True)  # int32[n]; 0: no target is known
    target_bytes: np.ndarray = dataclasses.field(kw_only=True)  # int[n], UTF-8 of the target's text
    num_targets_truncated: int = dataclasses.field(kw_only=True)

    def describe_truncated(self, name, task):
        lines = super().describe_truncated(name, task)
        if self.num_targets_truncated:
            lines.append(
                f"warning: {self.num_targets_truncated:,} of {len(self):,} {name} targets were truncated "
                f"to {task.max_target_len} tokens, [EOS] after the cut: raise task.max_target_len for "
                "whole texts"
            )
        return lines


@dataclasses.dataclass(frozen=True)
class LoadedSeq2seq(GenerationMixin, LoadedLabeledTask):
    """Pairs of sources and targets, encoded. `outputs` are [B, 2]: the summed cross entropy of a target
    in nats, and how many of its tokens are predicted correctly given the tokens before. Predictions are
    these, or generated_texts.Predictions."""

    attention: str = "causal"
    label_smoothing: float = 0.0

    name = Seq2seq.name

    @property
    def best_metric(self):
        return "-loss" if self.task.metric == "loss" else f"+{self.task.metric}"

    # ---- Traced ----------------------------------------------------------------------------------

    def init(self, rngs, model):
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract_batch)
        inputs = batch.inputs, batch.decoder_inputs
        return model.init(rngs["init"], *inputs, method="init_all")["params"]

    def losses(self, model, params, batch, dropout_rng):
        hidden = target_hidden_states(model, params, batch, dropout_rng)
        scores = lm_sums(
            model, params, hidden, batch, label_smoothing=self.label_smoothing
        )  # fmt: skip
        return {self.name: scores["lm"], "accuracy": scores["accuracy"]}

    def loss_denominators(self, batch):
        return {self.name: batch.loss_weights.sum()}

    def outputs(self, model, params, batch, dropout_rng=None):
        hidden = target_hidden_states(model, params, batch, dropout_rng)
        scores = lm_token_losses(model, params, hidden, batch.targets)
        return jnp.stack([(each * batch.loss_weights).sum(1) for each in scores], axis=1)

    # ---- On the host -----------------------------------------------------------------------------

    @property
    def full_shape(self):
        return (self.task.longest(self.model_config.architecture), self.task.max_target_len)

    def lengths(self, split):
        encoded = self.encoded[split]
        if self.model_config.architecture == "decoder":
            both = encoded.lengths + np.maximum(encoded.target_lengths - 1, 0)
            return np.stack([both, encoded.target_lengths], 1)
        return np.stack([encoded.lengths, encoded.target_lengths], 1)

    def tokens_read(self, shape):
        return shape[0] if self.model_config.architecture == "decoder" else sum(shape)

    def batch(self, split, indices, width=None, target_width=None):
        sources, lengths = self.model_inputs(split, indices, width)
        encoded = self.encoded[split]
        chosen, real = self.without_padding(indices)
        target_lengths = np.where(real, encoded.target_lengths[chosen], 0).astype(np.int32)
        targets = encoded.target_tokens[chosen][:, :target_width]
        return self.pair_batch(sources, lengths, targets, target_lengths, width)

    def pair_batch(
        self, sources: ModelInputs, lengths, targets, target_lengths, width: int | None = None
    ) -> Batch:
        """The Batch that generates targets int32[B, U], of target_lengths int32[B], after the sources
        [B, S] of lengths int32[B].

        An encoder-decoder reads the source, and the target shifted right. A decoder reads both in one
        row [B, width], by default S + U; it does not read the last token, which is only predicted.
        """
        slots = np.arange(targets.shape[1], dtype=np.int32)[None]
        is_target = slots < target_lengths[:, None]
        targets = np.where(is_target, targets, self.pad).astype(np.int32)
        weights = is_target.astype(np.float32)
        if self.model_config.architecture == "encoder_decoder":
            read = ModelInputs(
                tokens=targets,
                segment_ids=is_target.astype(np.int32),
                positions=(slots * is_target).astype(np.int32),
            )
            return Batch(
                inputs=sources,
                decoder_inputs=self.decoder_inputs(read),
                targets=targets,
                loss_weights=weights,
            )
        num_sources, num_targets = sources.tokens.shape[1], targets.shape[1]
        width = width or num_sources + num_targets
        places = np.arange(width, dtype=np.int32)[None]
        from_target = np.clip(places - lengths[:, None], 0, num_targets - 1)
        in_source = places < lengths[:, None]
        tokens = np.where(
            in_source,
            np.pad(sources.tokens, ((0, 0), (0, width - num_sources))),
            np.take_along_axis(targets, from_target, axis=1),
        )
        is_read = places < (lengths + np.maximum(target_lengths - 1, 0))[:, None]
        inputs = ModelInputs(
            tokens=np.where(is_read, tokens, self.pad).astype(np.int32),
            segment_ids=is_read.astype(np.int32),
            positions=(places * is_read).astype(np.int32),
            prefix=in_source if self.attention == "prefix" else None,
            attention=self.attention,
        )
        positions = np.where(is_target, lengths[:, None] - 1 + slots, 0)
        return Batch(
            inputs=inputs,
            targets=targets,
            loss_weights=weights,
            target_positions=positions.astype(np.int32),
        )

    def score(self, split, predictions):
        encoded, (outputs, generated) = self.encoded[split], unpacked(predictions)
        tokens = int(encoded.target_lengths.sum())
        if not tokens:
            return {}
        loss, correct = np.asarray(outputs, np.float64).sum(0).tolist()
        return {
            "loss": loss / tokens,
            "accuracy": correct / tokens,
            "perplexity": math.exp(min(loss / tokens, 700.0)),
            "bits_per_byte": loss / math.log(2) / max(1, int(encoded.target_bytes.sum())),
            **(generated.metrics if generated else {}),
        }

    def score_notes(self, predictions):
        generated = unpacked(predictions).generated
        return generated.signatures if generated else {}

    def prediction_rows(self, split, predictions):
        outputs, generated = unpacked(predictions)
        texts = self.text_of_row(split, generated) if generated else {}
        lengths = self.encoded[split].target_lengths.tolist()
        for example, ((loss, correct), tokens) in enumerate(
            zip(outputs.tolist(), lengths, strict=True)
        ):
            found = {"id": example}
            if generated:
                found |= generated.describe(texts.get(example))
            if any(lengths) or not generated:
                found |= {
                    "tokens": tokens,
                    "correct": round(correct) if tokens else "",
                    "loss": round(loss / tokens, 6) if tokens else "",
                }
            yield found

    def flops_specs(self, params):
        return ((self.model_config, params, {"lm": self.task.max_target_len}),)

    def describe_labels(self):
        train = self.encoded["train"]
        lengths = [f"{x.mean():.1f} tokens" for x in (train.lengths, train.target_lengths)]
        return f"sources of {lengths[0]} and targets of {lengths[1]} on average"


Seq2seq.loaded_type = LoadedSeq2seq
