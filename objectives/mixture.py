"""mixture: several objectives in one run, each drawn with its weight; ul2 is one (Tay et al. 2022).
Objectives of the registry made of others, which are written as registry.parse reads them.
Batches are made alike: padded to the largest, and seen as a prefix where not all are causal.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import knob
from objectives.assemble import compact
from objectives.base import ARCHITECTURES, Objective, Setting, Shapes
from objectives.batch import Batch
from objectives.registry import parse
from objectives.segments import documents, left_of

MODES = ("R", "S", "X")


@dataclass(frozen=True)
class Mixture(Objective):
    """Each row (or each batch) is that of one member, drawn with its share of the weights.

    A member that needs fewer raw tokens than another leaves the rest of its row unread. One with a
    mode has that mode's token put before each document, and as much less text.
    """

    name: ClassVar[str] = "mixture"
    irreversible: ClassVar[str] = "which member made a row is not written in its batch"

    members: tuple = knob(
        ((0.5, "span_corruption"), (0.5, "prefix_lm")),
        "((weight, objective) or (weight, objective, mode), ...); mode R, S or X",
    )
    draw: str = knob("row", "what a member is drawn for", choices=("row", "batch"))

    def __post_init__(self):
        _parsed(self.members)

    @property
    def parts(self) -> tuple["Member", ...]:
        return _parsed(self.members)

    @property
    def unfit(self) -> dict[str, str]:
        found = {}
        for part in self.parts:
            for architecture in set(ARCHITECTURES) - set(part.objective.architectures):
                why = part.objective.unfit.get(architecture, "")
                found.setdefault(architecture, f"its member {part.text} does not: {why}")
            if part.mode and "encoder" not in found:
                found["encoder"] = f"mode {part.mode} tells what is to be typed; leave it out"
        return found

    @property
    def architectures(self) -> tuple[str, ...]:
        return tuple(a for a in ARCHITECTURES if a not in self.unfit)

    def shapes(self, setting: Setting) -> Shapes:
        if any(part.mode for part in self.parts) and len(setting.vocabulary.modes) != 3:
            raise ValueError(
                f"{self.name}: the tokenizer has no [R], [S] and [X]: "
                "use one that was trained here, or members without a mode"
            )
        return Shapes.largest(part.objective.shapes(setting) for part in self.parts)

    def targets_expected(self, setting: Setting) -> float:
        return sum(p.share * p.objective.targets_expected(setting) for p in self.parts)

    def describe(self, setting: Setting) -> str:
        shapes = self.shapes(setting)
        raw = sum(p.share * p.objective.shapes(setting).raw for p in self.parts) / shapes.raw
        slots = self.targets_expected(setting) / shapes.targets
        parts = ", ".join(f"{p.share:.3g} {p.text}{p.mode and f' [{p.mode}]'}" for p in self.parts)
        return (
            f"{super().describe(setting)}; useful: {raw:.0%} of the raw tokens, {slots:.0%} of the "
            f"slots; drawn for each {self.draw}: {parts}"
        )

    def corrupt(self, setting: Setting, key: jax.Array, row: jax.Array) -> Batch:
        program, place, key = self._drawn(key)
        return jax.lax.switch(program, self._branches(setting), place, key, row)

    def corrupt_batch(self, setting: Setting, keys: jax.Array, rows: jax.Array) -> Batch:
        """draw=batch: the first row's key draws for all, and the other members are not run."""
        if self.draw == "row":
            return super().corrupt_batch(setting, keys, rows)
        program, place, _ = self._drawn(keys[0])
        keys = jax.vmap(lambda key: self._drawn(key)[2])(keys)
        branches = [jax.vmap(b, in_axes=(None, 0, 0)) for b in self._branches(setting)]
        return jax.lax.switch(program, branches, place, keys, rows)

    @property
    def _programs(self) -> tuple[tuple[int, ...], ...]:
        """The members' numbers, those together that one program makes. A row's draw is a switch, and under
        vmap all of its branches are run: UL2's seven denoisers are two programs, and cost two."""
        found = {}
        for number, part in enumerate(self.parts):
            found.setdefault((part.objective.program, part.mode != ""), []).append(number)
        return tuple(map(tuple, found.values()))

    def _drawn(self, key):
        """(number of a program, place among its members, key for the corruption)."""
        which_key, key = jax.random.split(key)
        edges = jnp.asarray(np.cumsum([part.share for part in self.parts])[:-1], jnp.float32)
        which = (jax.random.uniform(which_key) >= edges).sum(dtype=jnp.int32)
        where = {
            number: (program, place)
            for program, numbers in enumerate(self._programs)
            for place, number in enumerate(numbers)
        }
        program, place = jnp.asarray([where[n] for n in range(len(where))], jnp.int32)[which]
        return program, place, key

    def _branches(self, setting):
        """One function (place, key, row) -> Batch for each program, all of one structure."""
        shapes = self.shapes(setting)
        plain = [
            functools.partial(_of_program, [self.parts[n] for n in numbers], setting)
            for numbers in self._programs
        ]
        place, key = jax.eval_shape(lambda: (jnp.int32(0), jax.random.key(0)))
        row = jax.ShapeDtypeStruct((shapes.raw,), jnp.int32)
        like = [jax.eval_shape(branch, place, key, row) for branch in plain]
        seen = {batch.inputs.visibility for batch in like}
        alike = functools.partial(
            _alike,
            shapes=shapes,
            visibility=seen.pop() if len(seen) == 1 else "prefix",
            indexed=any(batch.indices is not None for batch in like),
        )
        return [lambda *drawn, branch=branch: alike(branch(*drawn)) for branch in plain]


@dataclass(frozen=True)
class UL2(Mixture):
    """UL2's seven denoisers (Tay et al. 2022, table 1 and section 3.1.2), each as likely, as in the
    paper's listing (section 9.2: rates=None). R: T5's short spans; X: long ones, or many; S: a
    quarter of each document from what precedes it."""

    name: ClassVar[str] = "ul2"

    members: tuple = knob(
        (
            (1.0, "span_0.15_sentinel_spans:mean_span_length=3", "R"),
            (1.0, "span_0.15_sentinel_spans:mean_span_length=8", "R"),
            (1.0, "prefix_lm:noise_density=0.25", "S"),
            (1.0, "span_0.5_sentinel_spans:mean_span_length=3,max_spans=100", "X"),
            (1.0, "span_0.5_sentinel_spans:mean_span_length=8", "X"),
            (1.0, "span_0.15_sentinel_spans:mean_span_length=64", "X"),
            (1.0, "span_0.5_sentinel_spans:mean_span_length=64", "X"),
        ),
        "((weight, objective, mode), ...)",
    )


@dataclass(frozen=True)
class Member:
    """One objective of a mixture."""

    share: float  # of all weights
    text: str
    objective: Objective
    mode: str  # R, S, X or ''


@functools.lru_cache(maxsize=256)
def _parsed(members):
    """The members of a config. Raises ValueError, one line, for what is none."""
    made = []
    for member in members:
        weight, text, mode = (*member, "")[:3] if isinstance(member, tuple) else (0, "", "")
        right = isinstance(weight, (int, float)) and 0 < weight < math.inf and isinstance(text, str)
        if not right or len(member) not in (2, 3) or mode not in ("", *MODES):
            raise ValueError(
                f"members has {member!r}: expected (weight, 'objective') with a weight above 0, and "
                f"behind it a mode of {', '.join(MODES)} if it is to have one"
            )
        objective = parse(text)
        if type(objective).losses is not Objective.losses:
            raise ValueError(
                f"members has {text!r}, whose loss is one of its own: a mixture shares the cross "
                "entropy of its targets; train it alone"
            )
        if objective.z_loss:
            raise ValueError(
                f"members has {text!r}: z_loss is of the loss that a mixture's members share; set it on "
                "the mixture"
            )
        if isinstance(objective, Mixture) and (mode or objective.draw != "row"):
            raise ValueError(
                f"members has {member!r}, a mixture with a mode or a draw of its own: its rows are "
                "drawn as this one's are; list its members here"
            )
        made.append((weight, text, objective, mode))
    if not made:
        raise ValueError("members is empty: expected ((weight, 'objective'), ...)")
    total = sum(weight for weight, *_ in made)
    return tuple(Member(weight / total, *rest) for weight, *rest in made)


def _of_program(parts, setting, place, key, row):
    """The Batch of the first tokens of a row that parts[place], of one program, makes."""
    members = tuple(part.objective for part in parts)
    lengths = [member.shapes(setting).raw for member in members]
    row = row[: max(lengths)]
    if parts[0].mode:
        tokens = [setting.vocabulary.modes[MODES.index(part.mode)] for part in parts]
        row = _announced(row, jnp.asarray(tokens, jnp.int32)[place], setting)
    its_own = jnp.arange(len(row), dtype=jnp.int32) < jnp.asarray(lengths, jnp.int32)[place]
    row = jnp.where(its_own, row, jnp.full_like(row, setting.vocabulary.pad))
    return members[0].corrupt_one_of(members, place, setting, key, row)


def _announced(row, token, setting):
    """The row with `token` before each of its documents; its end makes room."""
    segments = documents(row, setting.vocabulary, setting.architecture)
    opens = segments != left_of(segments, 0)
    keep = jnp.stack([opens & (segments > 0), segments > 0], axis=1).reshape(-1)
    both = jnp.stack([jnp.full_like(row, token), row], axis=1).reshape(-1)
    row, _ = compact(keep, row.shape[0], both, jnp.repeat(segments, 2), setting.vocabulary.pad)
    return row


def _alike(batch, shapes, visibility, indexed):
    """The Batch in the structure that all members share: as long as `shapes`, of one visibility,
    and with indices if any member has them (`indexed`)."""

    def longer(x, length):
        return x if x is None else jnp.pad(x, (0, length - x.shape[0]))

    inputs, decoder, indices = batch.inputs, batch.decoder, batch.indices
    if visibility != inputs.visibility:
        nothing = jnp.zeros_like(inputs.tokens, bool)
        inputs = inputs.replace(visibility=visibility, prefix=nothing)  # of which nothing is given
    if indexed and indices is None:
        indices = jnp.arange(batch.targets.shape[0], dtype=jnp.int32)
    if decoder is not None:
        decoder = jax.tree.map(lambda x: longer(x, shapes.targets), decoder)
    return batch.replace(
        inputs=jax.tree.map(lambda x: longer(x, shapes.inputs), inputs),
        decoder=decoder,
        targets=longer(batch.targets, shapes.targets),
        weights=longer(batch.weights, shapes.targets),
        indices=longer(indices, shapes.targets),
    )
