"""Parameters of one architecture in a model of another: which stack is filled from which.

`map_stacks` names the source of every parameter; training/init_from.py compares and reads them.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from models.config import NON_STRUCTURAL_FIELDS, resolve_defaults
from training.config import ConfigError
from training.param_rules import flatten_params, merge_params, unflatten_params

STACKS = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "encoder_decoder": ("encoder", "decoder"),
}
# config.init_stacks -> the stacks of this model that are filled; 'same': the model is unchanged.
FILLED = {
    "same": (),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "both": ("encoder", "decoder"),
}
INIT_STACKS = tuple(FILLED)
# Fields that may differ while parameters keep their meaning: between stacks, and between equal models.
STACK_FIELDS = ("architecture", "num_layers", "num_decoder_layers", "share_encoder_decoder",
                "separate_decoder_embeddings")  # fmt: skip
FREE_FIELDS = ("vocab_size", "max_length", *NON_STRUCTURAL_FIELDS)
PRETRAINING_ONLY = r"(heads/(?!lm/)|generator/).*"  # heads of an objective, other than the LM head
STACK_EMBEDDINGS = r"embed/(decoder_)?((?:positions|norm)/.*)"  # with separate_decoder_embeddings


@dataclasses.dataclass(frozen=True)
class StackMapping:
    """The origin of each parameter, as paths.

    Attributes:
      names: {path here: path in the checkpoint} of the parameters that are read; one path of the
        checkpoint may fill two here.
      zeros: set to 0: the output of cross-attention, so that it changes nothing at first.
      fresh: initialized as in a new model.
      dropped: paths of the checkpoint that are not used.
      notes: how the model behaves at first, for the log.
    """

    names: dict
    zeros: tuple = ()
    fresh: tuple = ()
    dropped: tuple = ()
    notes: tuple = ()

    def rename(self, found):
        """The leaves {path: leaf} of the checkpoint under their paths here, for a strict comparison; a
        leaf that is neither read nor dropped keeps its path, and is unexpected."""
        used = {*self.names.values(), *self.dropped}
        rest = {path: leaf for path, leaf in found.items() if path not in used}
        return rest | {here: found[there] for here, there in self.names.items() if there in found}

    def unread(self):
        """Regexes of the parameters that are not read."""
        return tuple(re.escape(path) for path in (*self.zeros, *self.fresh))

    def lines(self, target):
        """For the log: the fresh and dropped parameters, the copied ones, and what that means."""
        size = sum(target[path].size for path in self.names)
        pairs = sorted({(here.partition("/")[0], there.partition("/")[0])
                        for here, there in self.names.items()})  # fmt: skip
        moved = ", ".join(
            here if here == there else f"{here} from {there}" for here, there in pairs
        )
        return [
            f"fresh: {len(self.fresh)} tensors: {shorten_paths(self.fresh)}; zeros: "
            f"{len(self.zeros)} tensors: {shorten_paths(self.zeros)}",
            f"dropped: {len(self.dropped)} tensors: {shorten_paths(self.dropped)}",
            f"loaded: {len(self.names)} tensors, {size:,} parameters: {moved}",
            *self.notes,
        ]


def map_stacks(
    source, model, found, target, init_stacks, what="init_from", published=False
) -> StackMapping:
    """The StackMapping for the parameters `target` of `model` from the checkpoint `found` of `source`.

    Args:
      source, model: ModelConfigs with every zero filled in.
      found, target: {path: leaf with shape and dtype}.
      init_stacks: one of INIT_STACKS. An encoder-decoder gives each stack the one of the same name; a
        model with one stack gives that one.
      published: the checkpoint was imported, so its heads need not be those of the objective.

    Raises ConfigError if the models differ in a field that changes the meaning of parameters, the
    stacks differ in depth, or `init_stacks` does not fit the architecture.
    """
    _check(source, model, init_stacks, what)
    if init_stacks == "same":
        heads = r"(heads|generator)/.*" if published else r"(?!)"
        fresh = [p for p in target if p not in found and re.fullmatch(heads, p)]
        dropped = [p for p in found if p not in target and re.fullmatch(heads, p)]
        names = {p: p for p in target if p not in fresh}
        return StackMapping(names, (), tuple(fresh), tuple(dropped))
    origin = _origins(source, model, init_stacks)
    names, zeros, fresh = {}, [], []
    for path in target:
        stack, _, rest = path.partition("/")
        there = _embedding_path(path, source, model, init_stacks, origin)
        if stack in STACKS["encoder_decoder"]:
            if stack not in origin:
                fresh.append(path)
                continue
            there = f"{origin[stack]}/{rest}"
            if source.share_encoder_decoder and there not in found:
                there = f"encoder/{rest}"
            new_cross_attention = "/cross_attention" in path and there not in found
            if new_cross_attention and "/out/" in path:
                zeros.append(path)
                continue
            # The relative buckets of an encoder are bidirectional, those of a decoder are not.
            other_buckets = rest.startswith("relative_bias") and origin[stack] != stack
            if new_cross_attention or other_buckets:
                fresh.append(path)
                continue
        elif re.fullmatch(PRETRAINING_ONLY, path) and path not in found:
            fresh.append(path)
            continue
        names[path] = there
    used, stacks = set(names.values()), {*origin.values()}
    if source.share_encoder_decoder:
        stacks.add("encoder")

    def is_dropped(path):
        stack = path.partition("/")[0]
        own_part = "/cross_attention" in path or "/relative_bias/" in path
        if stack in STACKS["encoder_decoder"] and (stack not in stacks or own_part):
            return True
        separate = source.separate_decoder_embeddings and not model.separate_decoder_embeddings
        return bool(
            (separate and re.fullmatch(STACK_EMBEDDINGS, path))
            or re.fullmatch(PRETRAINING_ONLY, path)
        )

    dropped = tuple(path for path in found if path not in used and is_dropped(path))
    notes = _notes(source, model, origin, names)
    return StackMapping(names, tuple(zeros), tuple(fresh), dropped, notes)


def set_zeros(mapping: StackMapping, params, shardings):
    """`params` with the leaves `mapping.zeros` set to 0."""
    flat, places = flatten_params(params), flatten_params(shardings)
    zeros = {
        path: jax.device_put(jnp.zeros_like(flat[path]), places[path]) for path in mapping.zeros
    }
    return merge_params(unflatten_params(zeros), params)


def _check(source, model, init_stacks, what):
    """Raises ConfigError unless parameters of `source` mean the same in `model`."""
    a, b = resolve_defaults(source), resolve_defaults(model)
    free = FREE_FIELDS if init_stacks == "same" else (*STACK_FIELDS, *FREE_FIELDS)
    problems = [
        f"model.{field.name} is {getattr(a, field.name)!r} there and {getattr(b, field.name)!r} here"
        for field in dataclasses.fields(model)
        if field.name not in free and getattr(a, field.name) != getattr(b, field.name)
    ]
    stacks = STACKS.get(model.architecture, ())
    fitting = [name for name in INIT_STACKS[1:] if set(FILLED[name]) <= {*stacks}]
    if init_stacks == "same" and source.architecture != model.architecture and fitting:
        raise ConfigError(
            f"{what} has architecture {source.architecture!r}, this run {model.architecture!r}; set "
            f"config.init_stacks to the stacks that it should fill: {' or '.join(fitting)}"
        )
    if init_stacks != "same" and (init_stacks not in fitting or source.architecture not in STACKS):
        raise ConfigError(
            f"config.init_stacks={init_stacks!r} copies no stack from architecture "
            f"{source.architecture!r} to {model.architecture!r}; expected one of "
            f"{', '.join(('same', *fitting))}"
        )
    if model.share_encoder_decoder and not source.share_encoder_decoder and init_stacks == "both":
        if source.architecture == "encoder_decoder":
            raise ConfigError(
                f"config.init_stacks='both' fills one shared stack from the two of {what}; expected "
                "encoder or decoder"
            )
    separate = source.separate_decoder_embeddings and not model.separate_decoder_embeddings
    if separate and init_stacks == "both":
        raise ConfigError(
            f"config.init_stacks='both' fills one position embedding from the two of {what}; expected "
            "encoder or decoder, or config.model.separate_decoder_embeddings=True"
        )
    for stack, origin in _origins(source, model, init_stacks).items():
        if source.num_layers_in(origin) != model.num_layers_in(stack):
            decoder = model.num_decoder_layers and stack == "decoder"
            key = "num_decoder_layers" if decoder else "num_layers"
            problems.append(
                f"the {origin} has {source.num_layers_in(origin)} layers there, the {stack} "
                f"{model.num_layers_in(stack)} here (config.model.{key})"
            )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(f"{what} does not fit: {'; '.join(problems[:3])}{more}; make them equal")


def _embedding_path(path, source, model, init_stacks, origin):
    """The source of a stack's own positions or embedding norm: those of the stack that fills it, or the
    only ones. Any other path is its own source."""
    own = re.fullmatch(STACK_EMBEDDINGS, path)
    if not own or source.separate_decoder_embeddings == model.separate_decoder_embeddings:
        return path
    if source.separate_decoder_embeddings:
        filled = FILLED[init_stacks][0]
        return f"embed/{'decoder_' if origin[filled] == 'decoder' else ''}{own[2]}"
    return f"embed/{own[2]}"


def _origins(source, model, init_stacks):
    """{stack here: the stack of the source that fills it}. Shared layers are in the encoder's tree, and
    come from the source's encoder if `init_stacks` names it."""
    stacks = STACKS.get(source.architecture, ())
    origin = {s: s if s in stacks else stacks[0] for s in FILLED[init_stacks] if stacks}
    if model.share_encoder_decoder and origin.keys() == {"decoder"}:
        origin["encoder"] = origin["decoder"]
    return origin


def _notes(source, model, origin, names):
    """One sentence per initialized stack about its behavior before the first update."""
    notes = []
    cross_attention = any("/cross_attention" in path for path in names)
    for stack, filled_from in origin.items():
        if model.share_encoder_decoder and filled_from != stack:
            continue
        if model.positions == "relative" and filled_from != stack:
            notes.append(
                f"{stack}: behaves differently: relative biases are bidirectional in an encoder and causal "
                "in a decoder, so they are fresh"
            )
        elif filled_from == stack == "encoder":
            notes.append("encoder: encodes as before")
        elif stack == "encoder":
            notes.append("encoder: as the decoder did, for causal attention")
        elif model.architecture == "decoder" and source.architecture == "encoder_decoder":
            notes.append("decoder: behaves differently: its cross-attention is dropped")
        elif (
            model.architecture == "encoder_decoder"
            and not cross_attention
            and model.norm_position == "post"
        ):
            notes.append(
                "decoder: behaves differently: cross-attention adds zeros, but its norm follows them"
            )
        else:
            how = (
                "as before" if filled_from == stack else "as the encoder did, for causal attention"
            )
            zeros = (
                ""
                if cross_attention or model.architecture == "decoder"
                else ", for any encoder input"
            )
            notes.append(f"decoder: decodes {how}{zeros}")
    return tuple(notes)


def shorten_paths(paths, limit=4):
    """Paths as text; equal paths of different layers are listed once."""
    kinds = list(dict.fromkeys(re.sub(r"layer_\d+", "layer_*", path) for path in paths))
    more = f" and {len(kinds) - limit} more" if len(kinds) > limit else ""
    return ", ".join(kinds[:limit]) + more or "none"
