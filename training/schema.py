"""Every section of both configs. `option` (models/config.py) declares a field; training/config.py checks it.

`PretrainConfig` is the config of train.py, `FinetuneConfig` that of finetune.py.
"""

import dataclasses

from models import ADAPTERS, Adapter, LayerLoop
from models.config import ModelConfig, option
from objectives import OBJECTIVES, Objective
from tasks import FINETUNE_TASKS, Task
from training.init_stacks import INIT_STACKS
from training.optimizers import OPTIMIZERS, OptimizerConfig

INITS = ("pretrained", "embeddings", "random")
DURATION = "length of the run, in steps, examples, tokens, epochs or model FLOPs"
STOP_AFTER = "duration after which the run stops with a checkpoint, as by SIGTERM; a later value continues it"
MAX_HOURS = (
    "hours after which this start of the run saves and exits with status 143, as after SIGTERM, so that the "
    "same command resumes; 0: no limit"
)


def variants(registry, default):
    """A section whose `name` chooses one of the registered dataclasses."""
    return dataclasses.field(metadata={"variants": registry, "default": default})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The corpus and how it is read."""

    source: str = option(
        "python_docs",
        "python_docs, text:GLOB, jsonl:GLOB, tfds:NAME, or a mixture such as ((0.7, 'text:a/*'), "
        "(0.3, 'tfds:b'))",
    )
    document_separator: str = option(
        "blank_line", "what ends a document in text files", choices=("blank_line", "line", "file")
    )
    text_field: str = option(
        "text", "key of jsonl rows, or feature of a tfds source, with the text"
    )
    validation_fraction: float = option(
        0.01,
        "share of the documents kept for validation, chosen by hash, if a source has no such split",
        min=0.0,
        max=0.5,
    )
    num_train_tokens: int = option(
        0, "use the first tokens of each source, at least so many, and repeat them; 0: all", min=0
    )
    cache_dir: str = option(
        "", "token stores and tokenizers; '': $TRIPTYCH_CACHE or ~/.cache/triptych"
    )
    workers: int = option(0, "tokenization processes; 0: one per core", min=0)
    threads: int = option(4, "threads that read rows during training", min=1, max=256)
    prefetch: int = option(8, "batches read ahead during training", min=1, max=1024)

    def __post_init__(self):
        if not self.source.strip():
            raise ValueError(
                "data.source is empty: name one, such as 'python_docs' or 'text:/path/*.txt'"
            )


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: trained on the corpus, or read from a file."""

    type: str = option(
        "bpe",
        "byte-level BPE, WordPiece, Unigram, or whole words",
        choices=("bpe", "wordpiece", "unigram", "word"),
    )
    vocab_size: int = option(
        8192, "tokens, including the 113 special tokens", min=128, max=4_000_000
    )
    path: str = option("", "a tokenizer.json, or a directory with one; '': train one")
    lowercase: bool = option(False, "lowercase the text first")
    training_bytes: int = option(100_000_000, "bytes of text to train on, at most", min=1)
    min_frequency: int = option(2, "occurrences that a merge or a word must have", min=1)
    character_coverage: float = option(
        0.9995,
        "share of the text whose characters get a token (wordpiece, unigram), if those of all would take "
        "more than half of the vocabulary",
        min=0.0,
        max=1.0,
    )

    def __post_init__(self):
        if self.type == "bpe" and not self.path and self.vocab_size < 369:
            raise ValueError(
                f"tokenizer.vocab_size is {self.vocab_size}, but byte-level BPE needs at least 369 "
                "(113 special tokens and 256 bytes): raise it"
            )


@dataclasses.dataclass(frozen=True)
class PretrainingSteps(LayerLoop):
    """Length and batch of a pretraining run, and how it computes the layers."""

    duration: str = option("2000 steps", DURATION)
    stop_after: str = option("never", STOP_AFTER)
    batch_size: int = option(32, "rows per step, over all devices", min=1)
    seq_len: int = option(128, "tokens that the model reads in a row", min=4)
    grad_accum_steps: int = option(1, "microbatches per step", min=1)
    ema_decay: float = option(
        0.0, "decay of the averaged parameters; 0: none", min=0.0, max=0.999999
    )
    deterministic: bool = option(False, "bit-equal reruns on a GPU, at some cost in speed")
    max_hours: float = option(0.0, MAX_HOURS, min=0.0)


@dataclasses.dataclass(frozen=True)
class FinetuningSteps(LayerLoop):
    """Length and batch of a finetuning run, and how it computes the layers."""

    duration: str = option("3 epochs", DURATION)
    stop_after: str = option("never", STOP_AFTER)
    batch_size: int = option(16, "examples per step, over all devices", min=1)
    grad_accum_steps: int = option(1, "microbatches per step", min=1)
    ema_decay: float = option(
        0.0, "decay of the averaged parameters; 0: none", min=0.0, max=0.999999
    )
    deterministic: bool = option(False, "bit-equal reruns on a GPU, at some cost in speed")
    max_hours: float = option(0.0, MAX_HOURS, min=0.0)


@dataclasses.dataclass(frozen=True)
class PretrainingEvaluation:
    """The validation loss: how often and on how much."""

    every: str = option("10 %", "interval between evaluations")
    num_batches: int = option(20, "batches per evaluation; 0: the whole validation split", min=0)


@dataclasses.dataclass(frozen=True)
class FinetuningEvaluation:
    """Evaluations, and the parameters that the final scores belong to."""

    every: str = option("1 epochs", "interval between evaluations")
    select: str = option(
        "best",
        "checkpoint to score: best by the validation metric, or last",
        choices=("best", "last"),
    )
    batch_size: int = option(64, "examples per evaluation batch", min=1)
    test: bool = option(True, "score the test split and write its predictions")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: str = option("10 %", "interval between checkpoints")
    max_to_keep: int = option(2, "newest checkpoints kept", min=1)
    keep_period: str = option("never", "interval between checkpoints that are kept forever")
    asynchronous: bool = option(True, "save in the background")


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """Console lines and event files."""

    every: str = option("50 steps", "interval between console lines")
    tensorboard: bool = option(True, "write TensorBoard event files")
    wandb: str = option(
        "", "project of Weights & Biases, by the extra [wandb]; WANDB_MODE=offline works; '': none"
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one axis may be -1, which means all that remain."""

    data: int = option(-1, "data parallelism", min=-1)
    fsdp: int = option(1, "data parallelism with sharded parameters", min=-1)
    tensor: int = option(1, "tensor parallelism", min=-1)
    sequence: int = option(1, "parallelism over the positions of a row", min=-1)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed per stream, so that a new stream leaves the others unchanged. `seed=1` sets all."""

    init: int = option(0, "initial parameters", min=0, max=2**63 - 1)
    data: int = option(0, "data order, corruption, label subset", min=0, max=2**63 - 1)
    dropout: int = option(0, "dropout masks", min=0, max=2**63 - 1)
    head: int = option(
        0, "parameters of a new task head and of a new adapter", min=0, max=2**63 - 1
    )


@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """The exceptions to a strict restore from init_from, as regexes over whole parameter paths."""

    allow_missing: tuple = option(
        (), "parameters that the checkpoint need not have; a task's new head is always allowed"
    )
    allow_unexpected: tuple = option(
        (r"heads/.*", r"generator/.*"), "parameters of the checkpoint that may be dropped"
    )


@dataclasses.dataclass(frozen=True)
class ModelOverrides:
    """The fields of a pretrained ModelConfig that finetuning may change."""

    dropout_rate: float = option(-1.0, "-1: as pretrained", min=-1.0, max=0.99)
    attention_dropout_rate: float = option(-1.0, "-1: as pretrained", min=-1.0, max=0.99)
    dtype: str = option("", "'': as pretrained", choices=("", "float32", "bfloat16"))

    def apply(self, pretrained: ModelConfig) -> ModelConfig:
        """The pretrained ModelConfig with the fields that are set here."""
        values = dataclasses.asdict(self)
        values = {name: value for name, value in values.items() if value not in ("", -1.0)}
        if "dropout_rate" in values:  # that of embeddings too
            values["embedding_dropout_rate"] = -1.0
        return dataclasses.replace(pretrained, **values)


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The config of train.py."""

    model: ModelConfig
    objective: Objective = variants(OBJECTIVES, "causal_lm")
    data: DataConfig
    tokenizer: TokenizerConfig
    training: PretrainingSteps
    optimizer: OptimizerConfig = variants(OPTIMIZERS, "adamw")
    evaluation: PretrainingEvaluation
    checkpoint: CheckpointConfig
    restore: RestoreConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    init_from: str = option(
        "",
        "run directory[@step] or Hugging Face directory to continue pretraining from; the model and "
        "tokenizer of a Hugging Face directory are used too",
    )
    init_stacks: str = option(
        "same", "stacks that init_from fills; same: the whole model", choices=INIT_STACKS
    )
    init_ema: bool = option(True, "read averaged parameters from init_from where it has them")
    freeze: tuple = option((), "regexes of parameters that are not trained")
    profile: str = option(
        "",
        "updates to trace for TensorBoard and Perfetto, FIRST:LAST in steps, such as '100:110'; '': none",
    )
    resume_from: int = option(
        -1,
        "checkpoint of this run to go back to; options of the optimizer and the duration may differ from "
        "there on; -1: resume from the newest",
        min=-1,
    )

    def __post_init__(self):
        if isinstance(self.optimizer.learning_rate, tuple):
            raise ValueError(
                f"optimizer.learning_rate={self.optimizer.learning_rate!r}: expected one number; only "
                "finetune.py trains replicas; start one run of train.py for each value"
            )
        if self.init_stacks != "same" and not self.init_from:
            raise ValueError(
                f"init_stacks={self.init_stacks!r} names the stacks that init_from fills, but init_from is "
                "empty; set init_from, or leave init_stacks out"
            )


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The config of finetune.py."""

    task: Task = variants(FINETUNE_TASKS, next(iter(FINETUNE_TASKS)))
    adapter: Adapter = variants(ADAPTERS, "none")
    model_overrides: ModelOverrides
    model: ModelConfig
    training: FinetuningSteps
    optimizer: OptimizerConfig = variants(OPTIMIZERS, "adamw")
    evaluation: FinetuningEvaluation
    checkpoint: CheckpointConfig
    restore: RestoreConfig
    logging: LoggingConfig
    mesh: MeshConfig
    seed: Seeds
    seeds: tuple = option(
        (),
        "seeds of replicas, such as (0, 1, 2): runs that are trained together in one program, each in a "
        "directory of its own below --workdir; a tuple of learning rates does the same",
    )
    init_from: str = option(
        "",
        "pretrained run directory[@step] or Hugging Face directory; a run of word vectors gives its "
        "token embedding and tokenizer to a new model (config.model)",
    )
    embeddings_from: str = option(
        "", "init=embeddings: run directory[@step] of the token embedding; '': init_from"
    )
    init: str = option(
        "pretrained",
        "parameters taken from init_from: all, the token embedding, or none",
        choices=INITS,
    )
    init_ema: bool = option(True, "read averaged parameters from init_from where it has them")
    freeze: tuple = option((), "regexes of parameters that are not trained")
    profile: str = option(
        "",
        "updates to trace for TensorBoard and Perfetto, FIRST:LAST in steps, such as '100:110'; '': none",
    )
    resume_from: int = option(
        -1,
        "checkpoint of this run to go back to; options of the optimizer and the duration may differ from "
        "there on; -1: resume from the newest",
        min=-1,
    )

    def __post_init__(self):
        for name, values in (
            ("seeds", self.seeds),
            ("learning_rate", self.optimizer.learning_rate),
        ):
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{name}={values!r} has a value twice; name each once")
        if any(
            not isinstance(seed, int) or isinstance(seed, bool) or seed < 0 for seed in self.seeds
        ):
            raise ValueError(
                f"seeds={self.seeds!r}: expected integers of at least 0, such as (0, 1, 2)"
            )
        if self.adapter.name == "prompt" and self.task.packing:
            raise ValueError(
                "task.packing=True with adapter.name='prompt': only the first example of a row would see the "
                "prompt; set task.packing=False"
            )
        if self.optimizer.learning_rate == ():
            raise ValueError("optimizer.learning_rate=() is empty; name at least one")
        if self.seeds and self.seed != Seeds():
            raise ValueError("seed and seeds are both set; leave one out")
        if not self.init_from:
            raise ValueError(
                "init_from is empty; name the --workdir of a train.py run or a Hugging Face directory: "
                "--config.init_from=RUN, or in a sweep file init_from=STAGE or fixed(init_from=RUN) (with "
                "init=random its model and tokenizer are used, its parameters are not)"
            )
        if self.adapter.name != "none" and self.init != "pretrained":
            raise ValueError(
                f"adapter.name={self.adapter.name!r} with init={self.init!r}: the model around an adapter "
                "is not trained, and it would be random; set init=pretrained, or adapter.name=none"
            )
        if self.embeddings_from and self.init != "embeddings":
            raise ValueError(
                f"embeddings_from={self.embeddings_from!r} with init={self.init!r}: it names a run whose "
                "token embedding is read; set init=embeddings, or embeddings_from=''"
            )
