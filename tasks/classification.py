"""Classification of texts or pairs of texts, for all three architectures.

The head reads the state of [CLS], of the last token, or the mean of all states.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from data.special_tokens import template_for
from models.config import ModelConfig, option
from models.inputs import ModelInputs
from objectives.batch import Batch
from tasks import example_order, predictions
from tasks.base import LoadedTask, check_memory, resolve_pooling
from tasks.class_loss import ClassLossOptions, cross_entropy, example_weights
from tasks.encoding import Encoded, encode
from tasks.heads import ClassificationHead, pool_states
from tasks.labeled_task import LabeledTask
from tasks.metrics import CLASS_METRICS, classification_scores

_WIDTH_STEP = 8  # group_by_length pads a batch to a multiple of this, so few programs are compiled


@dataclasses.dataclass(frozen=True)
class Classification(ClassLossOptions, LabeledTask):
    """One label per text, or per pair of texts."""

    name: ClassVar[str] = "classification"
    hf_problem_type: ClassVar[str] = "single_label_classification"

    max_seq_len: int = option(128, "tokens of an example; longer ones are truncated", min=4)
    num_train_examples: int = option(
        0, "training labels to use, a stratified subset; 0: all", min=0
    )
    group_by_length: int = option(
        0, "steps whose examples are sorted by length, so that batches are short; 0: off", min=0
    )
    metric: str = option("accuracy", "chooses the best checkpoint", choices=tuple(CLASS_METRICS))
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
    pooling: str = option(
        "auto",
        "state that is classified: [CLS] (encoders), the last token (decoders), or the mean; auto: cls, "
        "last, or mean for an encoder-decoder",
        choices=("auto", "cls", "last", "mean"),
    )
    decoder_input: str = option(
        "text",
        "input of an encoder-decoder's decoder: the text again (BART), or the start token alone",
        choices=("text", "start"),
    )

    @staticmethod
    def head_module(num_classes: int, **options) -> ClassificationHead:
        """The head for these options of the task (fields of this class)."""
        names = {"head_dropout_rate": "dropout_rate", "head_bias": "use_bias"}
        fields = {f.name for f in dataclasses.fields(ClassificationHead)}
        options = {names.get(name, name): value for name, value in options.items()}
        return ClassificationHead(
            num_classes, **{name: value for name, value in options.items() if name in fields}
        )

    def load(
        self, config, model_config, tokenizer_file, log, *, process_index=0, process_count=1,
        batch_divisor=1,
    ) -> "LoadedClassification":  # fmt: skip
        pooling = resolve_pooling(self.pooling, model_config.architecture)
        tokenizer, model_config = self.open_tokenizer(tokenizer_file, model_config)
        splits = self.read(log)
        if tokenizer.is_word_level:
            texts = splits["train"].text + (splits["train"].text_pair or [])
            log(
                f"vocabulary coverage of the training examples: {vectors.coverage(tokenizer, texts)}"
            )
        special_ids = tokenizer.special_ids()
        template = template_for(model_config.architecture, special_ids, tokenizer.template)
        encoded = {
            split: encode(
                examples,
                tokenizer,
                template,
                self.max_seq_len,
                splits.label_names,
                special_ids["pad"],
            )
            for split, examples in splits.items()
        }
        examples = example_order.stratified_subset(
            encoded["train"].labels, self.num_train_examples, config.seed.data
        )
        return LoadedClassification(
            head=self.head_module(len(splits.label_names), **dataclasses.asdict(self)),
            pooling=pooling,
            decoder_input=self.decoder_input,
            label_smoothing=self.label_smoothing,
            class_weights=self.weight_of_classes(
                encoded["train"].labels[examples], splits.label_names
            ),
            model_config=model_config,
            pad=max(special_ids["pad"], 0),
            start=special_ids["start"],
            batch_size=config.training.batch_size,
            task=self,
            tokenizer=tokenizer,
            label_names=tuple(splits.label_names),
            encoded=encoded,
            examples=examples,
            fingerprint=splits.fingerprint,
            seed=config.seed.data,
            eval_batch_size=-(-config.evaluation.batch_size // batch_divisor) * batch_divisor,
            process_index=process_index,
            process_count=process_count,
        )

    def outline(self, config, model_config, tokenizer_file):
        resolve_pooling(self.pooling, model_config.architecture)
        if model_config.positions == "learned" and self.max_seq_len > model_config.max_length:
            raise ValueError(
                f"task.max_seq_len={self.max_seq_len}, but the pretrained model has "
                f"{model_config.max_length} learned positions: set it to at most that"
            )
        check_memory("task.max_seq_len", self.max_seq_len, config.training.batch_size, model_config)


def _host():
    return dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class LoadedClassification(LoadedTask):
    """A labeled set, encoded. Inputs are a Batch of NumPy arrays already."""

    head: ClassificationHead
    pooling: str  # cls, last or mean
    decoder_input: str
    label_smoothing: float
    class_weights: tuple[float, ...]  # of each class in the loss; () if they are equal
    model_config: ModelConfig
    pad: int
    start: int  # first token of an encoder-decoder's decoder
    batch_size: int
    task: Classification = _host()
    tokenizer: tokenizers.Tokenizer = _host()
    label_names: tuple[str, ...] = _host()
    encoded: dict[str, Encoded] = _host()  # by split
    examples: np.ndarray = _host()  # int64[n] training examples in the label budget
    fingerprint: str = _host()
    seed: int = _host()
    eval_batch_size: int = _host()
    process_index: int = _host()
    process_count: int = _host()

    name = Classification.name

    @property
    def best_metric(self) -> str:
        return f"+{self.task.metric}"

    @property
    def epoch_size(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def length_share(self) -> float:
        widths = [self._width(self._indices(step)) for step in range(self.task.group_by_length)]
        return float(np.mean(widths)) / self.task.max_seq_len if widths else 1.0

    @property
    def tokens_per_step(self) -> int:
        return round(self.batch_size * self.task.max_seq_len * self.length_share)

    @property
    def identities(self) -> dict:
        return {
            "data": self.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "labels": list(self.label_names),
        }

    @functools.cached_property
    def abstract_batch(self) -> Batch:
        batch = self._batch("train", np.zeros(self.batch_size, np.int64))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)

    # ---- Traced ----------------------------------------------------------------------------------

    def init(self, rngs, model):
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract_batch)
        params = model.init(rngs["init"], batch.inputs, batch.decoder_inputs)["params"]
        states = jnp.zeros((1, self.model_config.emb_dim), jnp.float32)
        head = self.head.init(rngs["head"], states)["params"]
        return {**params, "heads": {**params.get("heads", {}), self.name: head}}

    def prepare(self, rng, inputs):
        return inputs

    def losses(self, model, params, batch, dropout_rng):
        logits = self.outputs(model, params, batch, dropout_rng)
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        losses = cross_entropy(logits, targets, self.label_smoothing)
        in_loss = example_weights(targets, weights, self.class_weights)
        hits = (logits.argmax(-1).astype(jnp.int32) == targets).astype(jnp.float32)
        return {
            self.name: ((losses * in_loss).sum(), in_loss.sum()),
            "accuracy": ((hits * weights).sum(), weights.sum()),
        }

    def loss_weights(self):
        return {self.name: 1.0}

    def loss_denominators(self, batch):
        targets, weights = batch.targets[:, 0], batch.loss_weights[:, 0]
        return {self.name: example_weights(targets, weights, self.class_weights).sum()}

    def outputs(self, model, params, batch, dropout_rng=None):
        """Logits float32[B, C] of every row, including padding rows."""
        rngs = [{}, {}]
        if dropout_rng is not None:
            rngs = [{"dropout": rng} for rng in jax.random.split(dropout_rng)]
        hidden = model.apply(
            {"params": params},
            batch.inputs,
            batch.decoder_inputs,
            deterministic=dropout_rng is None,
            rngs=rngs[0],
        )
        states = pool_states(hidden, batch, self.pooling)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return self.head.apply(
                {"params": params["heads"][self.name]},
                states,
                deterministic=dropout_rng is None,
                rngs=rngs[1],
            )

    # ---- On the host -----------------------------------------------------------------------------

    def train_inputs(self, step):
        indices = self._indices(step)
        return self._batch("train", self._local(indices), self._width(indices))

    def eval_inputs(self, split):
        for indices in example_order.sequential(len(self.encoded[split]), self.eval_batch_size):
            yield self._batch(split, self._local(indices))

    def has_split(self, split):
        return split in self.encoded

    def _indices(self, step):
        """Indices int64[batch_size] of the training examples of a step, over all processes."""
        if self.task.group_by_length:
            lengths = self.encoded["train"].lengths[self.examples]
            places = example_order.grouped_at(
                step, self.batch_size, lengths, self.task.group_by_length, self.seed
            )
        else:
            places = example_order.shuffled_at(step, self.batch_size, len(self.examples), self.seed)
        return self.examples[places]

    def _width(self, indices):
        """Tokens that a batch is padded to: max_seq_len, or less where batches have similar lengths."""
        split = self.encoded["train"]
        if not self.task.group_by_length:
            return split.tokens.shape[1]
        longest = -(-int(split.lengths[indices].max()) // _WIDTH_STEP) * _WIDTH_STEP
        return min(longest, split.tokens.shape[1])

    def _local(self, indices):
        """This process's share of a global batch."""
        share = len(indices) // self.process_count
        return indices[self.process_index * share :][:share]

    def _batch(self, split, indices, width=None) -> Batch:
        """The examples int[B] of a split, padded to `width` tokens; PADDING gives a row of weight 0."""
        encoded = self.encoded[split]
        real = np.asarray(indices) != example_order.PADDING
        chosen = np.where(real, indices, 0)
        lengths = np.where(real, encoded.lengths[chosen], 0).astype(np.int32)
        tokens = encoded.tokens[chosen][:, :width]
        places = np.arange(tokens.shape[1], dtype=np.int32)
        segment_ids = (places < lengths[:, None]).astype(np.int32)
        architecture = self.model_config.architecture
        token_type_ids = None
        if self.model_config.num_token_types > 1:
            token_type_ids = encoded.token_type_ids[chosen][:, :width] * segment_ids
        inputs = ModelInputs(
            tokens=np.where(segment_ids > 0, tokens, self.pad).astype(np.int32),
            segment_ids=segment_ids,
            positions=segment_ids * places,
            token_type_ids=token_type_ids,
            attention="causal" if architecture == "decoder" else "bidirectional",
        )
        decoder_inputs, positions = None, np.zeros_like(lengths)
        if architecture == "encoder_decoder":
            decoder_inputs = self._decoder_inputs(inputs)
        if architecture == "decoder" or (
            architecture == "encoder_decoder" and self.decoder_input == "text"
        ):
            positions = np.maximum(lengths - 1, 0)
        labels = np.where(real, encoded.labels[chosen], 0)[:, None]
        return Batch(
            inputs=inputs,
            decoder_inputs=decoder_inputs,
            targets=np.maximum(labels, 0).astype(np.int32),
            loss_weights=(real[:, None] & (labels >= 0)).astype(np.float32),
            target_positions=positions[:, None].astype(np.int32),
        )

    def _decoder_inputs(self, inputs):
        """The text again, shifted right as in pretraining, so that the last state is the one that predicts
        [EOS] (BART; Lewis et al. 2020, section 3.1); or the start token alone."""
        length = inputs.tokens.shape[1] if self.decoder_input == "text" else 1
        segment_ids = inputs.segment_ids[:, :length]
        tokens = np.roll(inputs.tokens[:, :length], 1, axis=1)
        tokens[:, 0] = self.start
        return ModelInputs(
            tokens=np.where(segment_ids > 0, tokens, self.pad).astype(np.int32),
            segment_ids=segment_ids,
            positions=inputs.positions[:, :length],
            attention="causal",
        )

    def collect(self, split, outputs):
        """Logits float32[n, C] of a split."""
        return np.concatenate(outputs)[: len(self.encoded[split])]

    def score(self, split, predictions):
        labels = self.encoded[split].labels
        return classification_scores(labels, predictions) if (labels >= 0).all() else {}

    def write_predictions(self, folder, split, logits):
        labels = self.encoded[split].labels
        predictions.write(folder / f"predictions_{split}.tsv", self.label_names, labels, logits)

    def head_options(self) -> dict[str, Any]:
        """The options of the task, `auto` resolved: a published head needs some of them."""
        return dataclasses.asdict(self.task) | {"pooling": self.pooling}

    def flops_specs(self, params):
        return ((self.model_config, params, {self.name: 1}),)

    def provenance(self, step):
        return [
            {
                "number": step * self.batch_size + row,
                "source": self.task.source,
                "row": example,
                "documents": [{"document": example, "file": "train", "number": example}],
            }
            for row, example in enumerate(self._indices(step).tolist())
        ]

    def describe(self):
        splits = ", ".join(
            f"{len(split):,} {name}" for name, split in self.encoded.items() if name != "train"
        )
        lines = [
            f"{len(self.label_names)} labels; {len(self.examples):,} of {len(self.encoded['train']):,} "
            f"training examples, {splits}"
        ]
        for name, split in self.encoded.items():
            lines.append(split.describe_unknown(name))
            if split.num_truncated:
                lines.append(
                    f"{split.num_truncated:,} of {len(split):,} {name} examples were truncated to "
                    f"{self.task.max_seq_len} tokens"
                )
        return lines
