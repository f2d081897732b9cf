"""Classification in which labels are words that a model generates (T5; Raffel et al. 2020, section 2.4).

For encoder-decoders and decoders, with their own LM head. The loss is of the label's words. A
prediction is the label whose words have the highest probability, so every prediction is a label; or, with
`final_generation`, the label whose words the model generates, if it generates those of one.
"""

import dataclasses
import difflib
import functools
import string
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data import labeled, labels
from data.examples import Column, Examples, as_label, read
from data.files import digest
from generation import GenerationConfig
from models.config import option
from objectives.lm_loss import lm_token_losses, target_hidden_states
from tasks import predictions
from tasks.base import host_field
from tasks.class_loss import ClassMetricOptions
from tasks.encoding import label_ids
from tasks.generated_texts import unpacked
from tasks.labeled_task import LabeledTask
from tasks.loaded_labeled_task import most_frequent
from tasks.metrics import classification_scores
from tasks.pooled_task import TextColumns
from tasks.seq2seq import SOURCE, LoadedSeq2seq, Seq2seq


@dataclasses.dataclass(frozen=True)
class TextToText(ClassMetricOptions, TextColumns, LabeledTask):
    """One label per text, generated as words."""

    name: ClassVar[str] = "text_to_text"
    can_pack: ClassVar[bool] = True
    length_options: ClassVar[tuple[str, ...]] = Seq2seq.length_options

    prompt: str = option(
        "{text}",
        "what the model reads, such as 'sst2 sentence: {text}'; {text} and {text_pair} are the columns "
        "text_column and text_pair_column, and another name in braces is a column",
    )
    verbalizers: tuple = option(
        (),
        "((label, words), ...): the words of labels that are not their own, such as (('0', 'bad'),)",
    )
    length_normalized: bool = option(
        False, "divide the log-probability of a label by the number of its tokens"
    )
    attention: str = option(
        "causal",
        "attention of a decoder: causal, or prefix, which is bidirectional over the prompt",
        choices=("causal", "prefix"),
    )
    max_target_len: int = option(16, "tokens of the words of a label, [EOS] included", min=2)
    final_generation: bool = option(
        False,
        "the final predictions are the labels whose words are generated (greedy search), as in T5; other "
        "words are a wrong prediction",
    )

    def __post_init__(self):
        pairs = self.verbalizers
        if not all(
            isinstance(pair, tuple | list) and len(pair) == 2 and all(map(str, pair))
            for pair in pairs
        ):
            raise ValueError(
                f"verbalizers={pairs!r}: expected pairs of a label and its words, such as (('0', 'bad'), "
                "('1', 'good'))"
            )
        if not self.placeholders:
            raise ValueError(
                f"prompt={self.prompt!r} has no column in it: write {{text}} where it goes"
            )

    @property
    def parts(self) -> list[tuple[str, str | None]]:
        """[(text, the name in braces after it, or None)] of the prompt. Raises ValueError for a malformed
        one."""
        try:
            found = list(string.Formatter().parse(self.prompt))
        except ValueError as error:
            raise ValueError(
                f"prompt={self.prompt!r}: {error}; write {{{{ and }}}} for braces that are text"
            ) from error
        if any(name == "" or spec or conversion for _, name, spec, conversion in found):
            raise ValueError(
                f"prompt={self.prompt!r}: expected names of columns in braces, as in {{text}}"
            )
        return [(text, name) for text, name, _, _ in found]

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names in braces in the prompt, in their order."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def render(self, values: dict[str, str]) -> tuple[str, str]:
        """(the prompt of an example up to the end of its last column, the rest)."""
        texts = [text + ("" if name is None else values[name]) for text, name in self.parts]
        last = 1 + max(place for place, (_, name) in enumerate(self.parts) if name is not None)
        return "".join(texts[:last]), "".join(texts[last:])

    def example_columns(self):
        self.check_columns()
        own = {"text": "text_column", "text_pair": "text_pair_column"}
        columns = {}
        for name in self.placeholders:
            column = getattr(self, own[name]) if name in own else name
            if not column:
                raise ValueError(
                    f"task.prompt={self.prompt!r} has {{{name}}}: set task.{own[name]}"
                )
            columns[name] = Column(column, own.get(name, "prompt"))
        if self.text_pair_column and "text_pair" not in columns:
            raise ValueError(
                f"task.text_pair_column={self.text_pair_column!r}, but task.prompt={self.prompt!r} has no "
                "{text_pair}: write it where the second text goes"
            )
        return columns | {
            "label": Column(self.label_column, "label_column", as_label, is_label=True)
        }

    def read(self, log=lambda line: None):
        splits = read(self.source, self.example_columns(), self.dialect, self.missing, log=log)
        names = labeled.check_classes(
            self.source, splits, self.validation_fraction, log, self.placeholders
        )
        contents = {split: examples.columns for split, examples in splits.items()}
        return labeled.LabeledSplits(splits, digest(contents), names)

    def words_of(self, label_names) -> list[str]:
        """The words of each label. Raises ValueError for words of an unknown label, and for labels with the
        same words."""
        given = {str(label): str(words) for label, words in self.verbalizers}
        for label in given:
            if label not in label_names:
                near = difflib.get_close_matches(label, label_names, 1, 0.5)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"task.verbalizers has the label {label!r}{guess}, "
                    f"which train does not have: {', '.join(map(repr, label_names))[:160]}"
                )
        words = [given.get(label, label) for label in label_names]
        same = [
            label for label, each in zip(label_names, words, strict=True) if words.count(each) > 1
        ]
        if same or not all(labels.label_of(each) for each in words):
            what = (
                f"the labels {same[0]!r} and {same[1]!r} have the same words"
                if same
                else "words are empty"
            )
            raise ValueError(f"task.verbalizers={self.verbalizers!r}: {what}; give each its own")
        return words

    @property
    def pairs(self) -> Seq2seq:
        """The task that encodes prompts and words. The text after the last column in the prompt is kept
        when a text is truncated."""
        tail = self.render(dict.fromkeys(self.placeholders, ""))[1]
        return Seq2seq(
            prompt=SOURCE + tail,
            max_seq_len=self.max_seq_len,
            max_target_len=self.max_target_len,
            attention=self.attention,
        )

    def encode(self, examples, tokenizer, template, label_names, architecture):
        words, pairs = self.words_of(label_names), self.pairs
        longest = self.encode_words(tokenizer, label_names, architecture)[0].shape[1]
        columns = {name: examples.get(name) for name in self.placeholders}
        prompts = [
            self.render(dict(zip(columns, row, strict=True)))[0]
            for row in zip(*columns.values(), strict=True)
        ]
        ids = label_ids(examples.label, len(examples), label_names)
        found = {"source": prompts}
        if examples.label:
            found["target"] = [words[label] for label in ids]
        encoded = pairs.encode(Examples(found), tokenizer, template, (), architecture)
        target_tokens = encoded.target_tokens[:, :longest]
        return dataclasses.replace(encoded, labels=ids, target_tokens=target_tokens)

    def encode_words(self, tokenizer, label_names, architecture) -> tuple[np.ndarray, np.ndarray]:
        """(int32[C, U] the tokens of the words of each label, int32[C] how many they are).

        Raises ValueError for words that are too long, or that the tokenizer does not tell apart.
        """
        words = self.words_of(label_names)
        found = self.pairs.encode(
            Examples({"source": [""] * len(words), "target": words}),
            tokenizer,
            None,
            (),
            architecture,
        )
        if found.num_targets_truncated:
            longest = max(words, key=lambda each: len(tokenizer.encode(each)))
            raise ValueError(
                f"the label {longest[:40]!r} is longer than task.max_target_len={self.max_target_len} "
                "tokens: raise that, or give it shorter words in task.verbalizers"
            )
        first = {}
        for label, tokens in zip(label_names, found.target_tokens.tolist(), strict=True):
            other = first.setdefault(tuple(tokens), label)
            if other != label:
                raise ValueError(
                    f"the labels {other[:40]!r} and {label[:40]!r} have the same tokens, as with unknown "
                    "words: give them other words in task.verbalizers"
                )
        longest = int(found.target_lengths.max())
        return found.target_tokens[:, :longest], found.target_lengths

    def generation_config(self, max_new_tokens: int, batch_size: int, is_final: bool):
        return GenerationConfig(max_new_tokens=max_new_tokens, batch_size=batch_size)

    def loaded_fields(self, label_names, model_config, encoded, examples):
        return {
            "head": None,
            "attention": self.attention,
            "length_normalized": self.length_normalized,
            "positive": self.index_of_positive(label_names),
        }

    def longest(self, architecture):
        return self.pairs.longest(architecture)

    def check_model(self, model_config):
        if model_config.architecture == "encoder":
            raise ValueError(
                "task.name='text_to_text' generates the words of labels, which an encoder cannot: use "
                "task.name=classification, or set init_from to a decoder or an encoder-decoder"
            )
        self.pairs.check_model(model_config)
        super().check_model(model_config)


@dataclasses.dataclass(frozen=True)
class LoadedTextToText(LoadedSeq2seq):
    """A labeled set of prompts and the words of their labels, encoded.

    A training batch holds the words of the right label. An evaluation batch is [B, C, ...]: each prompt
    with the words of each of the C labels.
    """

    length_normalized: bool = False
    positive: int = host_field(default=-1)  # class of the metric f1

    name = TextToText.name
    name_of_target = None  # targets are the tokens of words

    @property
    def best_metric(self):
        return f"+{self.task.metric}"

    def outputs(self, model, params, batch, dropout_rng=None):
        """float32[B, C]: the log-probability of the words of each label, or its mean per token."""
        shape = batch.targets.shape[:2]
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        hidden = target_hidden_states(model, params, batch, dropout_rng)
        losses, _ = lm_token_losses(model, params, hidden, batch.targets)
        found = -(losses * batch.loss_weights).sum(1)
        if self.length_normalized:
            found /= jnp.maximum(batch.loss_weights.sum(1), 1.0)
        return found.reshape(shape)

    # ---- On the host -----------------------------------------------------------------------------

    def num_to_generate(self, split, is_final):
        return len(self.encoded[split]) if is_final and self.task.final_generation else 0

    def groups(self, split):
        """{row: [row]}: two examples with one prompt are two sources."""
        return {row: [row] for row in range(len(self.encoded[split]))}

    def references(self, split, generated):
        return []

    def samples(self, split, predictions):
        return []

    def classes_of(self, texts) -> np.ndarray:
        """int[n]: the labels whose words the texts are; the number of labels for other texts."""
        (tokens, counts), decode = self.words, self.tokenizer.decode
        words = [decode(ids[:n], skip_specials=True) for ids, n in zip(tokens, counts, strict=True)]
        classes = {labels.label_of(each): number for number, each in enumerate(words)}
        return np.array([classes.get(labels.label_of(text), len(words)) for text in texts], int)

    @functools.cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [C, U] of the words of each label, their lengths [C])."""
        architecture = self.model_config.architecture
        return self.task.encode_words(self.tokenizer, self.label_names, architecture)

    @property
    def full_shape(self):
        longest = int(self.words[1].max())
        shared = longest - 1 if self.model_config.architecture == "decoder" else 0
        return (self.task.max_seq_len + shared, longest)

    def lengths(self, split):
        """int[n, 2]: the lengths of each example with the longest label words."""
        encoded, longest = self.encoded[split], self.full_shape[1]
        shared = self.full_shape[0] - self.task.max_seq_len
        return np.stack([encoded.lengths + shared, np.full(len(encoded), longest)], 1)

    def eval_batch(self, split, indices, width=None, target_width=None):
        """The prompts int[B] of a split with the words of every label: arrays [B, C, ...]."""
        (tokens, counts), (_, real) = self.words, self.without_padding(indices)
        shape = (len(indices), len(tokens))
        sources, lengths = self.model_inputs(split, indices, width)
        batch = self.pair_batch(
            jax.tree.map(lambda x: np.repeat(x, len(tokens), axis=0), sources),
            np.repeat(lengths, len(tokens)),
            np.tile(tokens[:, :target_width], (len(indices), 1)),
            (real[:, None] * counts[None]).reshape(-1).astype(np.int32),
            width,
        )
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch)

    def score(self, split, predictions):
        outputs, generated = unpacked(predictions)
        known = self.encoded[split].labels
        if (known < 0).any():
            return {}
        found = generated and self.classes_of(generated.texts)
        return classification_scores(known, outputs, self.positive, found)

    def constant_output(self):
        return most_frequent(self.encoded["train"].labels, len(self.label_names))

    def prediction_rows(self, split, found):
        """As of classification; of generated labels also the text, and no prediction for another text."""
        outputs, generated = unpacked(found)
        rows = predictions.class_rows(self.label_names, self.encoded[split].labels, outputs)
        if generated is None:
            return rows
        names, texts = [*self.label_names, ""], generated.texts
        classes = self.classes_of(texts)
        return (
            {**row, "prediction": names[number], "generated": text}
            for row, number, text in zip(rows, classes, texts, strict=True)
        )

    def describe_labels(self):
        words = self.task.words_of(self.label_names)
        return f"{len(words)} labels, as {', '.join(map(repr, words))[:160]}"


TextToText.loaded_type = LoadedTextToText
