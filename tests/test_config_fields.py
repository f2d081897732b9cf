"""Invariant 7: no dead config field. A run reads every field of every config dataclass.

Reads are traced at run time, per class that introduces the field. A read counts if code of this project
loads the attribute by its name from an instance of that class or of a subclass. `dataclasses.asdict`,
comparisons, hashing and checks in `__post_init__` do not count.
"""

import dataclasses
import dis
import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs

import finetune
import models
import train
from models import ADAPTERS
from models.config import ModelConfig
from objectives import OBJECTIVES
from tasks import TASKS, evaluate
from tasks.classification import Classification
from training import config as config_lib
from training import init_from, replica_axis, run_directory, schedules, sharding
from training.durations import StepConverter
from training.optimizers import OPTIMIZERS, Optimizer
from training.param_rules import find_all_frozen, flatten_params, split_params
from training.schema import FinetuneConfig, ModelOverrides, PretrainConfig
from training.state import TrainState
from training.train_step import init_params, rng_streams

ROOT = pathlib.Path(__file__).resolve().parent.parent


def sections(schema):
    """Every dataclass of a config: the schema, its sections, and the variants of its sections."""
    found = [schema]
    for field in dataclasses.fields(schema):
        if "variants" in field.metadata:
            found += field.metadata["variants"].values()
        elif dataclasses.is_dataclass(field.type):
            found += sections(field.type)
    return list(dict.fromkeys(found))


ALL = list(dict.fromkeys(sections(PretrainConfig) + sections(FinetuneConfig)))


def introduces(cls, name):
    """The base class of `cls` that introduces the field; a subclass may have another default."""
    has_field = [base for base in cls.__mro__ if name in vars(base).get("__dataclass_fields__", ())]
    return has_field[-1].__name__


@functools.cache
def attribute_at(code, offset):
    """The attribute that the instruction at `offset` loads, '' for another instruction. From Python 3.12 on,
    the offset of one that the interpreter has specialized is that of its inline cache."""
    last = [each for each in dis.get_instructions(code) if each.offset <= offset][-1]
    return str(last.argval) if last.opname == "LOAD_ATTR" else ""


class Tracer:
    """Records which fields of which classes the code of the project reads while it is in force."""

    def __init__(self, classes):
        self._read = set()
        self._fields = {
            cls: {f.name: introduces(cls, f.name) for f in dataclasses.fields(cls)}
            for cls in classes
        }

    def __enter__(self):
        tracer = self

        def traced(self, name):
            fields = tracer._fields.get(type(self), {})
            if name in fields:
                frame = sys._getframe(1)
                code = frame.f_code
                ours = code.co_filename.startswith(str(ROOT)) and "/tests/" not in code.co_filename
                if ours and code.co_name != "__post_init__":
                    if attribute_at(code, frame.f_lasti) == name:
                        tracer._read.add(f"{fields[name]}.{name}")
            return object.__getattribute__(self, name)

        for cls in self._fields:
            cls.__getattribute__ = traced
        return self

    def __exit__(self, *_):
        for cls in self._fields:
            del cls.__getattribute__

    def unread(self):
        """The fields that nothing read, as Class.field."""
        every = {
            f"{cls}.{name}" for fields in self._fields.values() for name, cls in fields.items()
        }
        return every - self._read


# The options that a default run does not reach: (config file, overrides). The train step of each is
# traced, not compiled.
ENCODER, DECODER = "configs/encoder.py", "configs/decoder.py"
BOTH, WORDS = "configs/encoder_decoder.py", "configs/skip_gram.py"
FILES = {"encoder": ENCODER, "decoder": DECODER, "encoder_decoder": BOTH, "embeddings": WORDS}
CHOICES = [
    (ENCODER, {"model.positions": "learned", "model.embedding_norm": True}),
    (BOTH, {"model.positions": "relative", "model.scale_attention": False}),
    (ENCODER, {"model.sliding_window": 8, "model.global_attn_every_n_layers": 2,
               "model.local_rope_theta": 100.0}),
    (BOTH, {"model.positions": "learned", "model.separate_decoder_embeddings": True}),
    (DECODER, {"model.use_bias": False, "training.ema_decay": 0.9}),
    (DECODER, {"model.rope_scaling": "yarn", "model.rope_factor": 2.0}),
    (DECODER, {"model.rope_scaling": "llama3", "model.rope_factor": 2.0}),
    (DECODER, {"model.rope_scaling": "longrope", "model.rope_short_factors": (1.0,) * 8,
               "model.rope_long_factors": (2.0,) * 8}),
]  # fmt: skip


def trace_step(folder, file, **overrides):
    """Traces the train step of a config without compiling it."""
    overrides = {key.replace(".", "__"): value for key, value in overrides.items()}
    config = tiny_configs.pretraining(folder, file, **overrides)
    config = config_lib.resolve(PretrainConfig, config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    task = TASKS["pretraining"]().load(
        config, config.model, "", lambda line: None, **sharding.process_args(mesh)
    )
    schedules.learning_rates(config.optimizer, StepConverter.of(config, task))
    model, rngs = models.build(task.model_config), rng_streams(config.seed)
    params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    optimizer = Optimizer(config.optimizer, config.training.ema_decay, 1)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
    step = functools.partial(train.train_step, task, model)
    jax.eval_shape(step, state, {}, rngs, task.train_inputs(0), np.float32(0))


def load_task(folder, file):
    """Loads the task of a finetuning config, and scores an untrained model with a batch of it."""
    config = tiny_configs.finetuning(folder, folder / "source", file)
    source = init_from.resolve_for_finetuning(
        config_lib.resolve(FinetuneConfig, config), folder / "none", lambda path: path
    )
    config = source.config
    config.task.load_without_data(config, config.model, source.tokenizer_file)
    task = config.task.load(config, config.model, source.tokenizer_file, lambda line: None)
    model, rngs = models.build(task.model_config), rng_streams(config.seed)
    params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    losses = functools.partial(task.losses, model, dropout_rng=None)
    jax.eval_shape(losses, params, task.train_inputs(0))
    assert task.best_metric[0] in "+-"
    task.num_to_generate("test", is_final=True)  # reads final_generation


# The finetuning tasks besides the one that the run below trains: (config file, options).
TASK_CHOICES = [("configs/finetune/question_answering.py:squad_v2", {}),
                ("configs/finetune/seq2seq.py", {"task__final_generation": True})]  # fmt: skip


def trace_task(folder, file, **options):
    """Loads a task, and evaluates outputs that are drawn at random in place of a model's."""
    config = tiny_configs.finetuning(folder, folder / "source", file, **options)
    config = config_lib.resolve(FinetuneConfig, config)
    model = ModelConfig(**run_directory.read_config(folder / "source")["model"])
    task = config.task.load(config, model, f"{folder}/source/tokenizer.json", lambda line: None)
    network, rngs = models.build(task.model_config), rng_streams(config.seed)
    params = jax.eval_shape(functools.partial(init_params, task, network), rngs)
    outputs = jax.eval_shape(functools.partial(task.outputs, network), params, task.abstract_batch)
    shape = (config.evaluation.batch_size, *outputs.shape[1:])
    random = np.random.default_rng(0)
    texts = None
    if count := task.num_to_generate("test", is_final=True):
        params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
        texts = functools.partial(task.generate, "test", network, params, None, True, min(count, 1))
    predictions, _ = evaluate(task, "test", lambda batch: random.normal(size=shape), texts)
    assert task.best_metric
    task.write_predictions(folder, "test", predictions)


def trace_adapter(folder, name, **overrides):
    """Traces the train step of finetuning `folder`/source with an adapter."""
    overrides = {f"adapter__{key}": value for key, value in {"name": name, **overrides}.items()}
    config = tiny_configs.finetuning(folder, folder / "source", **overrides)
    config = config_lib.resolve(FinetuneConfig, config)
    source = init_from.resolve_for_finetuning(config, folder / "new", lambda path: path)
    task = config.task.load(config, source.config.model, source.tokenizer_file, lambda line: None)
    model, rngs = models.build(task.model_config, config.adapter), rng_streams(config.seed)
    params = jax.eval_shape(functools.partial(init_params, task, model), rngs)
    fixed = find_all_frozen(config, flatten_params(params))
    trainable, frozen = split_params(params, fixed)
    optimizer = Optimizer(config.optimizer)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), trainable)
    step = functools.partial(finetune.train_step, task, model, replica_axis.ReplicaAxis())
    jax.eval_shape(step, state, frozen, rngs, task.train_inputs(0), np.float32(0))


@pytest.fixture
def restored_jax_config():
    """The entry points set where compiled programs are kept, and which ones."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


# Read through dataclasses.asdict, so a change of the value must change the result.
OTHER_HEADS = {"head_dropout_rate": 0.2, "pooler": True, "pooler_activation": "gelu",
               "pooler_norm": True, "head_bias": False}  # fmt: skip
OTHER_MODELS = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "dtype": "bfloat16"}


def test_invariant_07_a_run_reads_every_config_field(tmp_path, restored_jax_config):
    jax.clear_caches()  # what is compiled already is not traced again
    with Tracer(ALL) as tracer:
        pretraining = tiny_configs.pretraining(tmp_path)
        source = f"--workdir={tmp_path}/source"
        train.main(["--config=configs/decoder.py", source, *tiny_configs.flags(pretraining)])
        pretraining.init_from = f"{tmp_path}/source"
        train.run(pretraining, str(tmp_path / "continued"))
        finetuning = tiny_configs.finetuning(tmp_path, tmp_path / "source")
        finetune.main(["--config=configs/finetune/classification.py",
                       f"--workdir={tmp_path}/task", *tiny_configs.flags(finetuning)])  # fmt: skip
        for name in ("regression", "multi_label", "multiple_choice", "seq2seq", "text_to_text"):
            load_task(tmp_path, f"configs/finetune/{name}.py")
        TASKS["multiple_choice"]().example_columns()  # of a list in a column
        load_task(tmp_path, "configs/finetune/tagging.py")
        for file, options in TASK_CHOICES:
            trace_task(tmp_path, file, **options)
        for name, objective in OBJECTIVES.items():
            architecture = objective().architectures[0]
            trace_step(tmp_path, FILES[architecture], **{"objective.name": name})
        for name, schedule in zip(OPTIMIZERS, ("wsd", "linear", "rsqrt", "cosine"), strict=True):
            overrides = {"optimizer.name": name, "optimizer.schedule": schedule}
            trace_step(tmp_path, DECODER, **overrides)
        for file, overrides in CHOICES:
            trace_step(tmp_path, file, **overrides)
        for name in ADAPTERS:
            options = {"dropout_rate": 0.1, "use_dora": True} if name == "lora" else {}
            trace_adapter(tmp_path, name, **options)
    changing = {f"HeadOptions.{name}" for name in OTHER_HEADS}
    changing |= {f"ModelOverrides.{name}" for name in OTHER_MODELS}
    assert tracer.unread() == changing


@pytest.mark.parametrize("name", OTHER_HEADS)
def test_invariant_07_an_option_of_the_head_changes_the_head(name):
    def head(**options):
        return Classification.head_module(2, **dataclasses.asdict(Classification(**options)))

    assert head(**{name: OTHER_HEADS[name]}) != head()


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_invariant_07_a_model_override_changes_that_field_of_the_model(name):
    value, model = OTHER_MODELS[name], ModelConfig()
    expected = dataclasses.replace(model, **{name: value})
    assert ModelOverrides(**{name: value}).apply(model) == expected != model


def test_a_dead_field_that_shares_its_name_with_another_class_is_caught():
    @dataclasses.dataclass(frozen=True)
    class Used:
        size: int = 1

    @dataclasses.dataclass(frozen=True)
    class Dead:
        size: int = 1

    @dataclasses.dataclass(frozen=True)
    class Derived(Used):
        size: int = 2

    code = compile("def read(x):\n    return x.size\n", str(ROOT / "models" / "none.py"), "exec")
    space = {}
    exec(code, space)
    for reader in (Used, Derived):
        with Tracer([Used, Dead, Derived]) as tracer:
            space["read"](reader())
            assert dataclasses.asdict(Dead()) == {"size": 1} and Dead() == Dead()
        assert tracer.unread() == {"Dead.size"}


@pytest.mark.parametrize("schema", [PretrainConfig, FinetuneConfig])
def test_every_field_has_a_type_a_default_and_help(schema):
    for cls in sections(schema):
        for field in dataclasses.fields(cls):
            if "variants" in field.metadata or dataclasses.is_dataclass(field.type):
                continue
            assert field.type in (int, float, str, bool, tuple), f"{cls.__name__}.{field.name}"
            assert field.default is not dataclasses.MISSING and field.default is not None
            assert field.metadata.get("help"), f"{cls.__name__}.{field.name}"
