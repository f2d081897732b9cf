"""Initialization from another run: which config runs, and which parameters are read from where.

Precedence: resume > init_from > random. A restore is strict: parameters that are missing, unexpected or
of another shape are errors unless the config names them. Used by the entry files.
"""

import dataclasses

import jax
import numpy as np

from models import ADAPTERS, Adapter
from models.adapters import ADAPTER_KEY
from models.config import ModelConfig, complete_config
from training import checkpoint, frozen, init_stacks, paths, run_directory
from training.config import ConfigError
from training.init_head import plan_head
from training.init_stacks import shorten_paths
from training.param_rules import flatten_params, merge_params, unflatten_params
from training.restore_plan import TOKEN_EMBEDDING, plan_restore
from training.schema import ModelOverrides, PretrainConfig
from training.train_step import init_adapter

PRETRAINING_HEADS = (r"heads/.*", r"generator/.*")  # finetuning drops those that its task lacks
# Parameters with an entry for each token -> the axis of these entries.
VOCABULARY_AXES = {TOKEN_EMBEDDING: 0, "heads/lm/bias": 0, "heads/lm/kernel": 1}


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """The pretrained model that a run starts from, and the config that results from it.

    Attributes:
      config: the one resolved config, with the model and tokenizer of the pretrained model: it is
        printed, stored and used.
      name: RUN@STEP of the parameters, '' for none.
      tokenizer_file: tokenizer.json of the pretrained model; '': the data decides.
      run, step: the run directory and checkpoint to read, None in a resumed run.
      adapter: the adapter of its parameters.
      imported: `run` is in the cache, made of a Hugging Face directory: it may be removed at any time.
    """

    config: object
    name: str = ""
    tokenizer_file: str = ""
    run: object = None
    step: int = 0
    imported: bool = False
    adapter: Adapter = Adapter()

    def check_tokenizer(self, tokenizer):
        """Raises ConfigError if the parameters belong to another tokenizer than that of the data."""
        if self.run is not None:
            check_tokenizer(self.run, tokenizer, "init_from", self.config.init_from)


def resolve(config, run_dir, as_run) -> PretrainedModel:
    """The PretrainedModel of a PretrainConfig or a FinetuneConfig; arguments as in
    `resolve_for_pretraining`."""
    if isinstance(config, PretrainConfig):
        return resolve_for_pretraining(config, run_dir, as_run)
    return resolve_for_finetuning(config, run_dir, as_run)


def resolve_for_pretraining(config, run_dir, as_run) -> PretrainedModel:
    """The PretrainedModel of a PretrainConfig. A Hugging Face model brings its tokenizer and, unless
    init_stacks says otherwise, its model, in which ModelOverrides' fields may differ.

    Args:
      run_dir: the run directory; if it holds a run, that run's files are used and the source is not.
      as_run: huggingface.as_run.

    Raises ConfigError for another architecture.
    """
    if not config.init_from:
        return PretrainedModel(config)
    overrides = ModelOverrides(
        config.model.dropout_rate, config.model.attention_dropout_rate, config.model.dtype
    )
    started = run_directory.resumes(run_dir) and run_directory.read_manifest(run_dir)
    if started:
        # Runs from before November 2026 have the second name.
        names = ("uses_pretrained_tokenizer", "uses_source_tokenizer")
        if not any(started.get(name) for name in names):
            return PretrainedModel(config, started["init_from"])
        stored = run_directory.read_config(run_dir)["config"]
        config = dataclasses.replace(
            config,
            model=overrides.apply(run_directory.model_config(stored["model"], run_dir)),
            tokenizer=dataclasses.replace(config.tokenizer, path=stored["tokenizer"]["path"]),
        )
        return PretrainedModel(config, started["init_from"], str(run_dir / "tokenizer.json"))
    path = as_run(config.init_from, config.data.cache_dir)
    run, step = checkpoint.resolve_checkpoint(path)
    _check_adapter(run, Adapter(), config)
    pretrained = PretrainedModel(config, f"{run}@{step}", "", run, step, path != config.init_from)
    if "huggingface" not in run_directory.read_manifest(run):
        return pretrained
    tokenizer_file = str(run / "tokenizer.json")
    config = dataclasses.replace(
        config, tokenizer=dataclasses.replace(config.tokenizer, path=tokenizer_file)
    )
    if config.init_stacks == "same":
        model = run_directory.read_model_config(run)
        if model.architecture != config.model.architecture:
            raise ConfigError(
                f"config.init_from={config.init_from!r} has architecture {model.architecture!r}, this "
                f"config {config.model.architecture!r}; start from configs/{model.architecture}.py"
            )
        config = dataclasses.replace(config, model=overrides.apply(model))
    return dataclasses.replace(pretrained, config=config, tokenizer_file=tokenizer_file)


def resolve_for_finetuning(config, run_dir, as_run) -> PretrainedModel:
    """The PretrainedModel of a FinetuneConfig: the pretrained model and tokenizer, or a new model around the
    token embedding of a run of word vectors. Arguments as in `resolve_for_pretraining`."""
    started = run_directory.resumes(run_dir) and run_directory.read_manifest(run_dir)
    if started:
        stored = run_directory.read_config(run_dir)["config"]["model"]
        given, default = dataclasses.asdict(config.model), dataclasses.asdict(ModelConfig())
        changed = {name: value for name, value in given.items() if value != default[name]}
        model = run_directory.model_config(stored | changed, run_dir)
        config = dataclasses.replace(config, model=model)
        return PretrainedModel(config, started["init_from"], str(run_dir / "tokenizer.json"))
    path = as_run(config.init_from)
    run, step = checkpoint.resolve_checkpoint(path)
    name, model = f"{run}@{step}", run_directory.read_model_config(run)
    if model.architecture == "embeddings":
        embedding_size = model.emb_dim
        model = _around_embedding(config, embedding_size, name)
        model = complete_config(model, run_directory.read_config(run)["model"]["vocab_size"],
                                config.task.longest(model.architecture))  # fmt: skip
    elif config.model != ModelConfig():
        raise ConfigError(
            f"config.model is set, but init_from={name!r} has a model of its own; leave config.model out, "
            f"or set config.model_overrides"
        )
    config = dataclasses.replace(config, model=config.model_overrides.apply(model))
    adapter = (
        _check_adapter(run, config.adapter, config) if config.init == "pretrained" else Adapter()
    )
    tokenizer_file = str(run / "tokenizer.json")
    return PretrainedModel(
        config, name, tokenizer_file, run, step, path != config.init_from, adapter
    )


def _around_embedding(config, size, name):
    """config.model with the embedding size of word vectors; a projection follows if it is not emb_dim."""
    if config.init == "pretrained":
        raise ConfigError(
            f"config.init='pretrained' with init_from={name!r}: word vectors are a token embedding and "
            f"nothing else; expected embeddings or random"
        )
    model = config.model
    if model.architecture == "embeddings":
        raise ConfigError(
            "config.model.architecture='embeddings' has no hidden states to finetune; expected encoder, "
            "decoder or encoder_decoder"
        )
    if model.embedding_size not in (0, size):
        raise ConfigError(
            f"config.model.embedding_size={model.embedding_size}, but the vectors of {name!r} have size "
            f"{size}; set it to 0"
        )
    return dataclasses.replace(model, embedding_size=size if size != model.emb_dim else 0)


def read_adapter(run) -> Adapter:
    """The adapter in the parameters of a run directory."""
    given = dict(run_directory.read_config(run)["config"].get("adapter") or {"name": "none"})
    kind = ADAPTERS[given.pop("name")]
    run_directory.check_fields(given, kind, run, "adapter")
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})


def _check_adapter(run, adapter, config):
    """The adapter of a run. Raises ConfigError if it has one that is not `adapter`."""
    there = read_adapter(run)
    if there.name not in ("none", "bitfit") and there != adapter:
        same = (
            ""
            if adapter.name == "none"
            else f", or set config.adapter as there: {str(there)[:120]}"
        )
        raise ConfigError(
            f"config.init_from={config.init_from!r} has an adapter ({there.name}); merge it into the model "
            f"first (python -m tools.convert merge {config.init_from} TARGET){same}"
        )
    return there


# ---- Parameters ----------------------------------------------------------------------------------


def load_for_pretraining(pretrained: PretrainedModel, task, params, shardings):
    """(params with the source's, lines for the log, the frozen.Reference to parameters that are the
    same there or None), for continued pretraining.

    Raises ConfigError for another tokenizer, or a checkpoint that does not fit.
    """
    config = pretrained.config
    pretrained.check_tokenizer(task.tokenizer)
    target = flatten_params(params)
    mapping, plan = plan_pretraining(pretrained, task.model_config, target)
    lines = mapping.lines(target)
    lines[2] += f"; {_describe(pretrained)}"
    lines[1:1] = plan.lines(target)[1:2] * bool(plan.dropped)
    loaded = {path: mapping.names[path] for path in plan.loaded if path in mapping.names}
    read = _read(pretrained, loaded, params, shardings, config.init_ema)
    params = init_stacks.set_zeros(mapping, read, shardings)
    base = _reference(pretrained, loaded, read, params)
    return params, lines, base


def plan_pretraining(pretrained: PretrainedModel, model_config, target):
    """(StackMapping, RestorePlan) for the parameters `target`, {path: leaf with shape and dtype}, of a model.

    Raises ConfigError for a checkpoint that does not fit or cannot be read.
    """
    config, found = pretrained.config, checkpoint.params_metadata(pretrained.run, pretrained.step)
    mapping = init_stacks.map_stacks(
        run_directory.read_model_config(pretrained.run), model_config, found, target, config.init_stacks,
        config.init_from, "huggingface" in run_directory.read_manifest(pretrained.run),
    )  # fmt: skip
    allow_missing = (*mapping.unread(), *config.restore.allow_missing)
    plan = plan_restore(
        target, mapping.rename(found), "pretrained", allow_missing, config.restore.allow_unexpected,
        config.init_from,
    )  # fmt: skip
    return mapping, plan


def load_for_finetuning(pretrained: PretrainedModel, task, model, rngs, params, shardings, as_run):
    """(params with the source's, lines for the log, the frozen.Reference to parameters that are the
    same there or None), by config.init. A new adapter is initialized again from the loaded parameters.

    The head of a finetuned or published model is kept if its labels and its form are those of the task.
    """
    config, target = pretrained.config, flatten_params(params)
    if config.embeddings_from:
        path = as_run(config.embeddings_from)
        run, step = checkpoint.resolve_checkpoint(path)
        pretrained = dataclasses.replace(
            pretrained,
            name=f"{run}@{step}",
            run=run,
            step=step,
            imported=path != config.embeddings_from,
        )
        check_tokenizer(run, task.tokenizer, "embeddings_from", config.embeddings_from)
    found = checkpoint.params_metadata(pretrained.run, pretrained.step)
    allow_missing = (rf"heads/{task.name}/.*", *config.restore.allow_missing)
    head, notes = None, []
    if pretrained.adapter != config.adapter:
        allow_missing = (rf"{ADAPTER_KEY}/.*", *allow_missing)
    if config.init == "pretrained":
        head = plan_head(pretrained.run, task, target, found, config.restore.allow_missing)
        if head.is_kept:
            allow_missing = tuple(
                p for p in allow_missing if not p.startswith(f"heads/{task.name}/")
            )
    fresh, vocab_size = params, run_directory.read_model_config(pretrained.run).vocab_size
    has_new_tokens = TOKEN_EMBEDDING in found and vocab_size < task.model_config.vocab_size
    if has_new_tokens:  # the checkpoint's rows are read as they are
        leaves = {
            path: jax.ShapeDtypeStruct(found[path].shape, target[path].dtype)
            for path in VOCABULARY_AXES.keys() & found.keys() & target.keys()
        }
        params = merge_params(unflatten_params(leaves), params)
        target = {**target, **leaves}
    plan = plan_restore(
        target, found, config.init, allow_missing,
        (*PRETRAINING_HEADS, *config.restore.allow_unexpected), pretrained.name,
    )  # fmt: skip
    loaded = {path: path for path in plan.loaded}
    params = read = _read(pretrained, loaded, params, shardings, config.init_ema)
    if has_new_tokens:
        params = _with_new_rows(params, fresh, vocab_size, shardings, leaves, plan.loaded)
        notes.append(
            f"{task.model_config.vocab_size - vocab_size} new tokens have fresh embeddings"
        )
    if head and head.is_permuted:
        params = _reorder_classes(params, shardings, task.name, head.order)
    is_new = not (head and head.is_kept)
    if is_new and (kept := [path for path in plan.loaded if path.startswith("heads/")]):
        notes.append(f"the pretrained head is kept: {shorten_paths(kept)}")
    lines = plan.lines(target)
    if head and head.line:
        lines[-1 if head.is_kept else 0] += f"; {head.line}"
    if plan.loaded:
        lines[-1] += f"; {_describe(pretrained)}"
    lines += notes
    reference = _reference(pretrained, loaded, read, params)
    if pretrained.adapter != config.adapter:
        params |= init_adapter(model, rngs, params)
    return params, lines, reference


def _with_new_rows(params, fresh, vocab_size, shardings, resized, loaded):
    """`params` in which the `resized` paths have the entries of the first `vocab_size` tokens from the
    checkpoint, where they are `loaded`, and the others are fresh."""
    rows, places = flatten_params(fresh), flatten_params(shardings)
    rows = {path: rows[path] for path in resized}
    for path in rows.keys() & set(loaded):
        known = (*[slice(None)] * VOCABULARY_AXES[path], slice(vocab_size))
        rows[path] = jax.jit(
            lambda old, new, known=known: new.at[known].set(old[known]), out_shardings=places[path]
        )(flatten_params(params)[path], rows[path])
    return merge_params(unflatten_params(rows), params)


def published(pretrained: PretrainedModel) -> dict:
    """The entry of the manifest with what an export needs of the Hugging Face directory that the run
    starts from, directly or through other runs; {} without one."""
    manifest = run_directory.read_manifest(pretrained.run) if pretrained.run else {}
    origin = manifest.get("huggingface") or manifest.get("published") or {}
    labels = () if "head" in origin else ("head_keys",)  # of a head that the directory lacks
    names = ("model_type", "generation", "config", *labels)
    kept = {key: origin[key] for key in names if key in origin}
    return {"published": kept} if kept else {}


def _reorder_classes(params, shardings, head, order):
    flat, places = flatten_params(params), flatten_params(shardings)
    moved = {
        path: jax.jit(lambda x: x[..., np.array(order)], out_shardings=places[path])(leaf)
        for path, leaf in flat.items()
        if path.startswith(f"heads/{head}/output")
    }
    return merge_params(unflatten_params(moved), params)


def check_tokenizer(run, tokenizer, option, value):
    """Raises ConfigError if `run`, the value of config.`option`, has another tokenizer."""
    there = run_directory.read_manifest(run)["tokenizer"]
    if there != tokenizer.fingerprint:
        raise ConfigError(
            f"config.{option}={value!r} was trained with another tokenizer ({there[:12]}, here "
            f"{tokenizer.fingerprint[:12]}); set config.tokenizer.path={run}/tokenizer.json in pretraining"
        )


def _read(pretrained, names, params, shardings, use_ema):
    """`params` with the leaves {path here: path in the checkpoint} read from the source.

    A leaf of the checkpoint may serve two paths here: it is copied, since buffers are donated.
    """
    if not names:
        return params
    flat, places = flatten_params(params), flatten_params(shardings)
    first = {}
    for here, there in sorted(names.items()):
        first.setdefault(there, here)
    wanted = {
        there: jax.ShapeDtypeStruct(flat[here].shape, flat[here].dtype, sharding=places[here])
        for there, here in first.items()
    }
    tree = unflatten_params(wanted)
    found = flatten_params(
        checkpoint.read_params(f"{pretrained.run}/checkpoints", pretrained.step, tree, use_ema)
    )
    filled = {}
    for here, there in names.items():
        copy = jax.jit(jax.numpy.copy, out_shardings=places[here])
        filled[here] = found[there] if first[there] == here else copy(found[there])
    return merge_params(unflatten_params(filled), params)


def _reference(pretrained, names, read, params):
    """The frozen.Reference to those of {path here: path there} whose arrays were `read` and are unchanged
    in `params`; None if that run does not last, or if the new run is to last without it: all that is
    frozen there is what its task does not use."""
    config = pretrained.config
    if pretrained.imported or (not config.freeze and getattr(config, "adapter", None) == Adapter()):
        return None
    read, params = flatten_params(read), flatten_params(params)
    names = {here: there for here, there in names.items() if params[here] is read[here]}
    places = (str(paths.absolute(pretrained.run)),)
    return frozen.Reference(places, pretrained.step, pretrained.config.init_ema, names)


def _describe(pretrained):
    count = len(checkpoint.ema_paths(pretrained.run, pretrained.step))
    if not count:
        return f"parameters of {pretrained.name} (it has no averaged parameters)"
    if not pretrained.config.init_ema:
        return f"parameters of {pretrained.name}, not averaged (init_ema=False)"
    return f"averaged parameters of {pretrained.name} ({count} tensors)"
