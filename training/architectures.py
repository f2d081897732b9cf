"""Parameters of one architecture in a network of another: which stack becomes which, said and checked.

Between train.py's `init_from` and training/transfer.py: `plan` names for every parameter here the one
there, `transfer` compares and reads them under those names, `load` puts them in their places.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from models.config import SILENT, explicit
from training import rules
from training.config import ConfigError

STACKS = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "encoder_decoder": ("encoder", "decoder"),
}
# config.init_as -> the stacks here that are filled; 'same' is the network as it stands.
FILLED = {
    "same": (),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "both": ("encoder", "decoder"),
}
AS = tuple(FILLED)
# What of a network may differ and its parameters still mean the same: between networks of unlike
# stacks, and between equal ones.
STACKED = ("architecture", "layers", "decoder_layers", "shared_stacks", "separate_embeddings")
FREE = ("vocab_size", "max_length", *SILENT)
PRETRAINING = (
    r"(heads/(?!lm/)|generator/).*"  # what an objective has beside the network and its output
)
OWN_EMBEDDINGS = r"embed/(decoder_)?((?:positions|norm)/.*)"  # with separate_embeddings


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where parameters come from, as paths.

    Attributes:
      names: {path here: path there} of what is read; one there may serve two here.
      zero: here, set to 0: what cross-attention writes, so that it changes nothing at first.
      fresh: here, as initialised.
      left: there, not wanted.
      notes: what stays as it was and what does not, for the log.
    """

    names: dict
    zero: tuple = ()
    fresh: tuple = ()
    left: tuple = ()
    notes: tuple = ()

    def renamed(self, found):
        """The checkpoint's leaves {path: leaf} under the names they have here, for a strict
        comparison; what is neither read nor left keeps its name, and will be unexpected."""
        used = {*self.names.values(), *self.left}
        rest = {path: leaf for path, leaf in found.items() if path not in used}
        return rest | {here: found[there] for here, there in self.names.items() if there in found}

    def new(self):
        """Regexes of the parameters that are not read."""
        return tuple(re.escape(path) for path in (*self.zero, *self.fresh))

    def lines(self, target):
        """For the log: what was copied, what is new, what was left, and what that means."""
        size = sum(target[path].size for path in self.names)
        ways = sorted({(here.partition("/")[0], there.partition("/")[0])
                       for here, there in self.names.items()})  # fmt: skip
        moved = ", ".join(here if here == there else f"{here} from {there}" for here, there in ways)
        return [
            f"copied {len(self.names)} tensors ({size:,} parameters): {moved}",
            f"new {len(self.zero)} tensors of zeros: {_kinds(self.zero)}; "
            f"{len(self.fresh)} fresh: {_kinds(self.fresh)}",
            f"left {len(self.left)} tensors: {_kinds(self.left)}",
            *self.notes,
        ]


def check_asked(config):
    """Raises ConfigError for an `init_as` that nothing is initialised from."""
    if config.init_as != "same" and not config.init_from:
        raise ConfigError(
            f"config.init_as={config.init_as!r} says which stacks init_from fills, and there is none; set "
            "config.init_from, or leave it out"
        )


def plan(there, here, found, target, init_as, what="init_from", published=False):
    """The Plan for parameters `target` {path: leaf} of network `here` out of `found` of `there`.

    Args:
      there, here: ModelConfigs, completed.
      found, target: {path: leaf with shape and dtype}.
      init_as: one of AS: the stacks here that are filled. An encoder-decoder gives each stack the one
        of its name; a network of one stack gives that one.
      published: the checkpoint is another project's, whose heads need not be those of the objective.

    Raises:
      ConfigError: the networks differ in what changes the meaning of parameters, the stacks in depth,
      or `init_as` is not for this architecture. Shapes are compared by transfer.plan.
    """
    _check(there, here, init_as, what)
    if init_as == "same":
        heads = r"(heads|generator)/.*" if published else r"(?!)"
        fresh = [p for p in target if p not in found and re.fullmatch(heads, p)]
        left = [p for p in found if p not in target and re.fullmatch(heads, p)]
        return Plan({p: p for p in target if p not in fresh}, (), tuple(fresh), tuple(left))
    origin = _origins(there, here, init_as)
    names, zero, fresh = {}, [], []
    for path in target:
        stack, _, rest = path.partition("/")
        source = _of_embeddings(path, there, here, init_as, origin)
        if stack in STACKS["encoder_decoder"]:
            if stack not in origin:
                fresh.append(path)
                continue
            source = f"{origin[stack]}/{rest}"
            if there.shared_stacks and source not in found:
                source = f"encoder/{rest}"
            crossing = "/cross_attention" in path and source not in found
            if crossing and "/out/" in path:
                zero.append(path)
                continue
            # An encoder's buckets tell left from right, a decoder's do not: another table.
            if crossing or (rest.startswith("relative_bias") and origin[stack] != stack):
                fresh.append(path)
                continue
        elif re.fullmatch(PRETRAINING, path) and path not in found:
            fresh.append(path)
            continue
        names[path] = source
    used, sources = set(names.values()), {*origin.values()}
    if there.shared_stacks:
        sources.add("encoder")
    left = [
        path
        for path in found
        if path not in used
        and (
            (path.partition("/")[0] in STACKS["encoder_decoder"]
             and (path.partition("/")[0] not in sources or "/cross_attention" in path
                  or "/relative_bias/" in path))
            or (there.separate_embeddings and not here.separate_embeddings
                and re.fullmatch(OWN_EMBEDDINGS, path))
            or re.fullmatch(PRETRAINING, path)
        )
    ]  # fmt: skip
    return Plan(names, tuple(zero), tuple(fresh), tuple(left), _notes(there, here, origin, names))


def load(read, made, report, params, shardings):
    """Parameters of a checkpoint in the places that the Plan `made` gives them.

    Args:
      read: transfer.load of that checkpoint: (report, params, shardings) -> params.
      report: transfer.plan's of `made.renamed(...)`.
      params: fresh ones, for what is new.
    """
    flat, places = rules.paths(params), rules.paths(shardings)
    first = {}
    for here, there in sorted(made.names.items()):
        first.setdefault(there, here)
    found = read(
        dataclasses.replace(report, loaded=tuple(sorted(first))),
        _nested({there: flat[here] for there, here in first.items()}),
        _nested({there: places[here] for there, here in first.items()}),
    )
    arrays, filled = rules.paths(found), {}
    for here, there in made.names.items():
        # What serves two is copied: a state's buffers are donated one by one.
        own = first[there] == here
        filled[here] = arrays[there] if own else _copied(places[here])(arrays[there])
    for path in made.zero:
        filled[path] = jax.device_put(jnp.zeros_like(flat[path]), places[path])
    return rules.merge(_nested(filled), params)


def _check(there, here, init_as, what):
    """Raises ConfigError unless parameters of `there` mean in `here` what they meant."""
    a, b = explicit(there), explicit(here)
    free = FREE if init_as == "same" else (*STACKED, *FREE)
    problems = [
        f"model.{field.name} is {getattr(a, field.name)!r} there and {getattr(b, field.name)!r} here"
        for field in dataclasses.fields(here)
        if field.name not in free and getattr(a, field.name) != getattr(b, field.name)
    ]
    fitting = [name for name in AS[1:] if set(FILLED[name]) <= {*STACKS.get(here.architecture, ())}]
    if init_as == "same" and there.architecture != here.architecture and fitting:
        raise ConfigError(
            f"{what} is of architecture {there.architecture!r}, this run of {here.architecture!r}; set "
            f"config.init_as to the stacks that it should fill: {' or '.join(fitting)}"
        )
    if init_as != "same" and (init_as not in fitting or there.architecture not in STACKS):
        raise ConfigError(
            f"config.init_as={init_as!r} carries no stack from architecture {there.architecture!r} to "
            f"{here.architecture!r}; expected one of {', '.join(('same', *fitting))}"
        )
    if here.shared_stacks and not there.shared_stacks and init_as == "both":
        if there.architecture == "encoder_decoder":
            raise ConfigError(
                f"config.init_as='both' fills one shared stack from the two of {what}; "
                "expected encoder or decoder"
            )
    if there.separate_embeddings and not here.separate_embeddings and init_as == "both":
        raise ConfigError(
            f"config.init_as='both' fills one table of positions from the two of {what}: expected "
            "encoder or decoder, or config.model.separate_embeddings=True"
        )
    for stack, origin in _origins(there, here, init_as).items():
        if there.depth(origin) != here.depth(stack):
            key = "decoder_layers" if here.decoder_layers and stack == "decoder" else "layers"
            problems.append(
                f"the {origin} has {there.depth(origin)} layers there, the {stack} "
                f"{here.depth(stack)} here (config.model.{key})"
            )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(f"{what} does not fit: {'; '.join(problems[:3])}{more}; make them equal")


def _of_embeddings(path, there, here, init_as, origin):
    """Where a stack's own positions or embedding norm come from: of the stack there that fills it, or
    the only ones; any other path is its own."""
    own = re.fullmatch(OWN_EMBEDDINGS, path)
    if not own or there.separate_embeddings == here.separate_embeddings:
        return path
    if there.separate_embeddings:
        read = FILLED[init_as][0]
        return f"embed/{'decoder_' if origin[read] == 'decoder' else ''}{own[2]}"
    return f"embed/{own[2]}"


def _origins(there, here, init_as):
    """{stack here: the stack there that fills it}. Where stacks here share their layers, they lie in
    the encoder's tree, and come from the encoder there if `init_as` names it."""
    stacks = STACKS.get(there.architecture, ())
    origin = {s: s if s in stacks else stacks[0] for s in FILLED[init_as] if stacks}
    if here.shared_stacks and origin.keys() == {"decoder"}:
        origin["encoder"] = origin["decoder"]
    return origin


def _notes(there, here, origin, names):
    """What the network does with these parameters at first, one sentence for each stack."""
    notes = []
    biases = here.positions == "relative"
    crossing = any("/cross_attention" in path for path in names)
    for stack, source in origin.items():
        if here.shared_stacks and source != stack:
            continue
        lost = biases and source != stack
        if lost:
            notes.append(
                f"{stack}: not what it was: relative biases of an encoder tell left from right and a "
                "decoder's do not, so they are fresh"
            )
        elif source == stack == "encoder":
            notes.append("encoder: encodes as it did")
        elif stack == "encoder":
            notes.append("encoder: as the decoder was, where it sees no more than what lies before")
        elif here.architecture == "decoder" and there.architecture == "encoder_decoder":
            notes.append(
                "decoder: not what it was: it read an encoder, and its cross-attention is left"
            )
        elif (
            here.architecture == "encoder_decoder" and not crossing and here.norm_position == "post"
        ):
            notes.append(
                "decoder: not what it was: cross-attention writes zeros, but its norm comes after them"
            )
        else:
            kept = "as it did" if source == stack else "as the encoder where that saw nothing ahead"
            zeros = "" if crossing or here.architecture == "decoder" else ", whatever is encoded"
            notes.append(f"decoder: decodes {kept}{zeros}")
    return tuple(notes)


def _kinds(paths):
    """Paths in few words: layers that fare alike share one."""
    kinds = list(dict.fromkeys(re.sub(r"layer_\d+", "layer_*", path) for path in paths))
    more = f" and {len(kinds) - 4} more" if len(kinds) > 4 else ""
    return ", ".join(kinds[:4]) + more or "none"


def _nested(flat):
    return rules.merge(flat, {})


def _copied(place):
    return jax.jit(jnp.copy, out_shardings=place)
