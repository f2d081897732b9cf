"""Pretraining as a task: an objective makes inputs and targets of the rows of a corpus.

Opens the token stores (data/) and wraps an objective (objectives/); train.py trains it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

import objectives
from data import loader, prepare
from data import tokenizer as tokenizers
from data.special_tokens import template_for
from data.tokenizer import NOTABLE_SHARE, Tokenizer
from models.config import ModelConfig, complete_config
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch, without_negative_ids
from objectives.unigram import Unigram
from objectives.vocabulary import Vocabulary
from tasks.base import LoadedTask, Task, check_memory, host_field
from tasks.sums import add_sums, weighted_mean


@dataclasses.dataclass(frozen=True)
class Pretraining(Task):
    """Self-supervised training on the corpus of `config.data` by `config.objective`."""

    name = "pretraining"

    def load(
        self, config, model_config, tokenizer_file, log, *, process_index=0, process_count=1,
        batch_divisor=1, check_tokenizer=lambda tokenizer: None,
    ) -> "LoadedPretraining":  # fmt: skip
        """See Task.load. `check_tokenizer` may raise ValueError before any text is tokenized."""
        objectives.check(config.objective, model_config.architecture)
        tokenizer_config = config.tokenizer
        if tokenizer_file:
            tokenizer_config = dataclasses.replace(tokenizer_config, path=tokenizer_file)

        def fit(tokenizer, counts=None):
            """(the loaded task without its corpus, the template of a document). Raises ValueError if the
            tokenizer does not fit the config."""
            counts = np.ones(tokenizer.size) if counts is None else counts
            check_tokenizer(tokenizer)
            return _without_data(config, model_config, tokenizer, Unigram(counts)), template_for(
                model_config.architecture, tokenizer.special_ids(), tokenizer.template, documents=True
            )  # fmt: skip

        corpus = prepare.prepare(
            config.data, tokenizer_config, build=process_count == 1, log=log, check=fit
        )
        counts = (store.unigram_counts for store in corpus.train)
        shares = [w * n / n.sum() for w, n in zip(corpus.weights, counts, strict=True)]
        task, template = fit(corpus.tokenizer, sum(shares))
        form = task.lengths.raw, task.lengths.overlap, template
        train = [store.rows(*form, config.data.num_train_tokens) for store in corpus.train]
        validation = [store.rows(*form) for store in corpus.validation]
        process = {"process_index": process_index, "process_count": process_count}
        order = loader.Batches(
            train, corpus.weights, seed=config.seed.data, global_batch=task.batch_size, **process
        )
        return dataclasses.replace(
            task,
            corpus=corpus,
            train=train,
            validation=validation,
            order=order,
            read_ahead=(config.data.threads, config.data.prefetch),
            num_batches=config.evaluation.num_batches,
            process=process,
        )

    def load_without_data(self, config, model_config, tokenizer_file):
        objectives.check(config.objective, model_config.architecture)
        path = tokenizer_file or config.tokenizer.path
        tokenizer = tokenizers.load(path) if path else tokenizers.of_words(("a", "b"))
        return _without_data(config, model_config, tokenizer, Unigram(np.ones(tokenizer.size)))


def _without_data(config, model_config, tokenizer, unigram) -> "LoadedPretraining":
    """The loaded task without its corpus: everything that its traced functions need."""
    objective, seq_len = config.objective, config.training.seq_len
    check_memory("training.seq_len", seq_len, config.training.batch_size, model_config)
    model_config = complete_config(model_config, tokenizer.size, seq_len, objective.num_token_types)
    vocabulary = Vocabulary(**tokenizer.special_ids())
    # Only word vectors sample by frequency; other tasks are equal whatever their corpus.
    unigram = unigram if model_config.architecture == "embeddings" else None
    task = LoadedPretraining(
        objective=objective,
        spec=ObjectiveSpec(model_config.architecture, vocabulary, seq_len, unigram),
        batch_size=config.training.batch_size,
        model_config=model_config,
        tokenizer=tokenizer,
    )
    task.objective.lengths(task.spec)  # raises ValueError if the sequences are too short for it
    return task


@dataclasses.dataclass(frozen=True)
class LoadedPretraining(LoadedTask):
    """An objective with its corpus. Inputs are (example ids uint32[B, 2], raw rows int32[B, L])."""

    objective: Objective
    spec: ObjectiveSpec
    batch_size: int
    model_config: ModelConfig
    tokenizer: Tokenizer = host_field()
    # The rest is absent in what `load_without_data` returns.
    corpus: prepare.TokenizedCorpus | None = host_field(default=None)
    train: list = host_field(default=())  # data.store.Rows of each source
    validation: list = host_field(default=())
    order: loader.Batches | None = host_field(default=None)
    read_ahead: tuple[int, int] = host_field(default=(1, 1))  # threads, prefetch
    num_batches: int = host_field(default=0)  # of an evaluation; 0: all
    process: dict = host_field(default_factory=dict)  # process_index, process_count

    best_metric = "-loss"
    name = Pretraining.name

    @functools.cached_property
    def loss(self):
        """The TrainingLoss of the objective."""
        return objectives.loss_of(self.objective)

    @functools.cached_property
    def eval_loss(self):
        """The TrainingLoss without z-loss, for evaluation."""
        return objectives.loss_of(self.objective.for_evaluation())

    @functools.cached_property
    def lengths(self) -> SequenceLengths:
        return self.objective.lengths(self.spec)

    @property
    def abstract_inputs(self):
        """`train_inputs` of all processes, as shapes."""
        ids = jax.ShapeDtypeStruct((self.batch_size, 2), np.uint32)
        return ids, jax.ShapeDtypeStruct((self.batch_size, self.lengths.raw), np.int32)

    @functools.cached_property
    def abstract_batch(self) -> Batch:
        rng = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
        return jax.eval_shape(self.prepare, rng, self.abstract_inputs)

    @property
    def epoch_size(self) -> int:
        return sum(map(len, self.train))

    @property
    def tokens_per_step(self) -> int:
        generated = self.lengths.targets if self.abstract_batch.decoder_inputs is not None else 0
        return self.batch_size * (self.lengths.inputs + generated)

    @property
    def fingerprint(self) -> str:
        return self.corpus.fingerprint

    @property
    def identities(self) -> dict:
        return {"data": self.fingerprint, "tokenizer": self.tokenizer.fingerprint}

    # ---- Traced ----------------------------------------------------------------------------------

    def init(self, rngs, model):
        return self.loss.init(model, rngs["init"], _zeros(self.abstract_batch))

    def prepare(self, rng, inputs):
        ids, rows = inputs
        return self._readable(self.objective.corrupt_batch(self.spec, example_rngs(rng, ids), rows))

    def prepare_evaluation(self, rng, inputs) -> dict[str, Batch]:
        """{part of the objective: Batch [B, ...]} of `eval_inputs`; most objectives have one part, ''."""
        ids, rows = inputs
        parts = self.objective.evaluation_batches(self.spec, example_rngs(rng, ids), rows)
        return {name: self._readable(batch) for name, batch in parts.items()}

    def _readable(self, batch):
        return batch if self.spec.vocabulary.pad >= 0 else without_negative_ids(batch)

    def losses(self, model, params, batch, dropout_rng):
        return self.loss.losses(model, params, batch, dropout_rng)

    def loss_coefficients(self):
        return self.loss.loss_coefficients()

    def loss_denominators(self, batch):
        return self.loss.loss_denominators(batch)

    def outputs(self, model, params, batches):
        return {
            _metric(part, name): sums
            for part, batch in batches.items()
            for name, sums in self.eval_loss.losses(model, params, batch, None).items()
        }

    # ---- On the host -----------------------------------------------------------------------------

    def train_inputs(self, step):
        return self._with_ids(step, self.order.batch_at(step))

    def iterate(self, start: int):
        """`train_inputs` from step `start` on, read ahead on threads."""
        for step, rows in self.order.iterate(start, *self.read_ahead):
            yield self._with_ids(step, rows)

    def _with_ids(self, number, rows):
        """The inputs of batch `number`: (ids of this process's examples, their raw rows)."""
        first = number * self.batch_size + self.process["process_index"] * len(rows)
        return example_ids(first, len(rows)), rows

    def eval_inputs(self, split):
        batches = loader.evaluation_batches(
            self.validation, self.batch_size, limit=self.num_batches, **self.process
        )
        return (self._with_ids(number, rows) for number, rows in enumerate(batches))

    def has_split(self, split):
        return split == "validation" and bool(self.validation)

    def collect(self, split, outputs):
        return add_sums(outputs)

    def score(self, split, predictions):
        parts = self.objective.evaluation_parts()
        weights = {
            _metric(part, name): share * weight
            for part, (share, _) in parts.items()
            for name, weight in self.eval_loss.loss_coefficients().items()
        }
        values = weighted_mean(predictions, weights)
        for part, (_, objective) in parts.items():
            if objective.is_likelihood:
                stores = self.corpus.validation
                tokens = sum(store.num_tokens + store.num_documents for store in stores)
                tokens_per_byte = tokens / max(1, sum(store.num_bytes for store in stores))
                bits_per_byte = values[part or "loss"] * (tokens_per_byte / math.log(2))
                values[_metric(part, "bits_per_byte")] = bits_per_byte
        return values

    def flops_specs(self, params):
        return self.loss.flops_spec(self.model_config, params, self.abstract_batch)

    def provenance(self, step):
        found = []
        for row, (source, place) in enumerate(self.order.rows_at(step).tolist()):
            documents = self.train[source].documents_of(place)
            found.append({
                "number": step * self.batch_size + row,
                "source": self.corpus.train[source].source,
                "row": place,
                "documents": [
                    {"document": document, "file": file, "number": number}
                    for document, file, number in documents
                ],
            })  # fmt: skip
        return found

    def manifest(self) -> dict[str, Any]:
        return {
            **self.identities,
            "contents": self.corpus.contents,
            "targets_per_step": self.batch_size * self.objective.expected_num_targets(self.spec),
        }

    def describe(self):
        stores = self.corpus.train
        return [
            f"{sum(s.num_tokens for s in stores):,} tokens of {sum(s.num_documents for s in stores):,} "
            f"documents in {self.epoch_size:,} rows of {self.lengths.raw}, "
            f"{sum(s.num_documents for s in self.corpus.validation):,} documents for validation; fingerprint "
            f"{self.fingerprint[:16]}",
            *self.corpus.describe_unknown(NOTABLE_SHARE),
            self.objective.describe(self.spec),
        ]


def _metric(part: str, name: str) -> str:
    """The name of a metric of a part of an objective: 'causal_lm' of its loss, 'causal_lm_accuracy'."""
    return "_".join(filter(None, (part, name if name != "lm" or not part else "")))


def example_ids(first: int, count: int) -> np.ndarray:
    """Global example numbers first .. first + count - 1 as uint32[count, 2] (high and low word)."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    words = [numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)]
    return np.stack(words, 1).astype(np.uint32)


def example_rngs(rng: jax.Array, ids: jax.Array) -> jax.Array:
    """One key per example: fold_in(fold_in(rng, high word), low word), for ids uint32[B, 2]."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(rng, i[0]), i[1]))(ids)


def _zeros(abstract):
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), abstract)
