"""mixture: several objectives in one run, sampled by weight; ul2 and hybrid are mixtures too.
A config lists the components as strings, which registry.parse reads.
Batches of all components get the same structure: padding to the longest, and a common attention type.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from models.config import option
from objectives.base import Objective, ObjectiveSpec, SequenceLengths
from objectives.batch import Batch
from objectives.document_ids import document_ids, left_of
from objectives.lm_loss import loss_of
from objectives.registry import parse
from objectives.seq2seq import compact
from objectives.vocabulary import Vocabulary

MODES = ("R", "S", "X")


@dataclass(frozen=True)
class SampledObjective(Objective):
    """Corrupts each row, or each batch, with one component; its probability is weight / sum of the weights.

    A component that needs fewer raw tokens than another ignores the end of its row. A component with a
    mode inserts the mode's token before each document and cuts as many tokens from the end of the row.
    Subclasses define `components` and `sample_per`, as options or as properties.
    """

    not_invertible_because: ClassVar[str] = "a batch does not record the component of each row"

    def __post_init__(self):
        _parse_components(self.components)

    @property
    def parsed(self) -> tuple["Component", ...]:
        return _parse_components(self.components)

    @property
    def unsupported(self) -> dict[str, str]:
        reasons = {}
        for component in self.parsed:
            for architecture, why in component.objective.unsupported.items():
                reasons.setdefault(
                    architecture, f"its component {component.text} does not support it: {why}"
                )
            if component.mode:
                why = f"an encoder does not generate text, so it needs no mode {component.mode}"
                reasons.setdefault("encoder", why)
        return reasons

    def lengths(self, spec: ObjectiveSpec) -> SequenceLengths:
        if any(c.mode for c in self.parsed) and len(spec.vocabulary.modes) != 3:
            raise ValueError(
                f"{self.name}: the tokenizer has no [R], [S] and [X]: train a tokenizer with this "
                "project, or use components without a mode"
            )
        return SequenceLengths.max_of(c.objective.lengths(spec) for c in self.parsed)

    def expected_num_targets(self, spec: ObjectiveSpec) -> float:
        return sum(c.share * c.objective.expected_num_targets(spec) for c in self.parsed)

    def describe(self, spec: ObjectiveSpec) -> str:
        lengths = self.lengths(spec)
        raw = sum(c.share * c.objective.lengths(spec).raw for c in self.parsed) / lengths.raw
        slots = self.expected_num_targets(spec) / lengths.targets
        each = ", ".join(f"{c.share:.3g} {c.label}" for c in self.parsed)
        return (
            f"{super().describe(spec)}; used: {raw:.0%} of the raw tokens, {slots:.0%} of the "
            f"slots; sampled per {self.sample_per}: {each}"
        )

    def corrupt(self, spec: ObjectiveSpec, rng: jax.Array, row: jax.Array) -> Batch:
        branch, index, rng = self._draw(rng)
        return jax.lax.switch(branch, self._branches(spec), index, rng, row)

    def corrupt_batch(self, spec: ObjectiveSpec, rngs: jax.Array, rows: jax.Array) -> Batch:
        """sample_per=batch: the first rng draws the component for all rows, and one branch runs."""
        if self.sample_per == "row":
            return super().corrupt_batch(spec, rngs, rows)
        branch, index, _ = self._draw(rngs[0])
        rngs = jax.vmap(lambda rng: self._draw(rng)[2])(rngs)
        branches = [jax.vmap(b, in_axes=(None, 0, 0)) for b in self._branches(spec)]
        batch = jax.lax.switch(branch, branches, index, rngs, rows)
        return batch.replace(slot_shares=self._slot_shares(spec))

    def evaluation_batches(self, spec, rngs, rows):
        """sample_per=batch: every component reads all rows, so that each has a loss of its own."""
        if self.sample_per == "row":
            return super().evaluation_batches(spec, rngs, rows)
        rngs = jax.vmap(lambda rng: self._draw(rng)[2])(rngs)
        return {
            name: jax.vmap(functools.partial(_corrupt, [component], spec, 0))(rngs, rows)
            for name, component in self._by_name.items()
        }

    def evaluation_parts(self):
        if self.sample_per == "row":
            return super().evaluation_parts()
        return {name: (c.share, c.objective) for name, c in self._by_name.items()}

    @property
    def _by_name(self):
        """{name in metrics: component}: its objective's name, or its text where that is not unique."""
        names = [component.objective.name for component in self.parsed]
        texts = [c.label for c in self.parsed]
        keys = [n if names.count(n) == 1 else t for n, t in zip(names, texts, strict=True)]
        return dict(zip(keys, self.parsed, strict=True))

    def _slot_shares(self, spec):
        """((number of target slots, share of the batches whose component has that many), ...), ascending."""
        shares = {}
        for component in self.parsed:
            num_slots = component.objective.lengths(spec).targets
            shares[num_slots] = shares.get(num_slots, 0.0) + component.share
        return tuple(sorted(shares.items()))

    @property
    def _groups(self) -> list[list[int]]:
        """Component numbers, grouped by `branch_key`. Under vmap a switch runs all its branches, so
        fewer branches cost less: UL2's seven denoisers need two."""
        groups = {}
        for number, component in enumerate(self.parsed):
            key = component.objective.branch_key, component.mode != ""
            groups.setdefault(key, []).append(number)
        return list(groups.values())

    def _draw(self, rng):
        """(branch number, component index within the branch, rng for the corruption)."""
        which_rng, rng = jax.random.split(rng)
        edges = jnp.asarray(np.cumsum([c.share for c in self.parsed])[:-1], jnp.float32)
        which = (jax.random.uniform(which_rng) >= edges).sum(dtype=jnp.int32)
        table = sorted(
            (number, branch, index)
            for branch, numbers in enumerate(self._groups)
            for index, number in enumerate(numbers)
        )
        branch, index = jnp.asarray([row[1:] for row in table], jnp.int32)[which]
        return branch, index, rng

    def _branches(self, spec):
        """One function (index, rng, row) -> Batch per branch, all with one Batch structure."""
        lengths = self.lengths(spec)
        branches = [
            functools.partial(_corrupt, [self.parsed[n] for n in numbers], spec)
            for numbers in self._groups
        ]
        index, rng = jax.eval_shape(lambda: (jnp.int32(0), jax.random.key(0)))
        row = jax.ShapeDtypeStruct((lengths.raw,), jnp.int32)
        batches = [jax.eval_shape(branch, index, rng, row) for branch in branches]
        attention = {batch.inputs.attention for batch in batches}
        unify = functools.partial(
            _unify,
            lengths=lengths,
            attention=attention.pop() if len(attention) == 1 else "prefix",
            with_positions=any(batch.target_positions is not None for batch in batches),
        )
        return [lambda *args, branch=branch: unify(branch(*args)) for branch in branches]


@dataclass(frozen=True)
class Mixture(SampledObjective):
    """The components of the config."""

    name: ClassVar[str] = "mixture"

    components: tuple = option(
        ((0.5, "span_corruption"), (0.5, "prefix_lm")),
        "((weight, objective) or (weight, objective, mode), ...); mode R, S or X",
    )
    sample_per: str = option(
        "row", "draw one component per row, or one per batch", choices=("row", "batch")
    )


@dataclass(frozen=True)
class Component:
    """One objective of a mixture."""

    share: float  # weight / sum of all weights
    text: str  # as in the config
    objective: Objective
    mode: str  # R, S, X or ''

    @property
    def label(self) -> str:
        return f"{self.text} [{self.mode}]" if self.mode else self.text


@functools.lru_cache(maxsize=256)
def _parse_components(components):
    """Config tuples -> Components. Raises ValueError, in one line, for an invalid one."""
    parsed = []
    for component in components:
        weight, text, mode = (*component, "")[:3] if isinstance(component, tuple) else (0, "", "")
        valid = isinstance(weight, (int, float)) and 0 < weight < math.inf and isinstance(text, str)
        if not valid or len(component) not in (2, 3) or mode not in ("", *MODES):
            raise ValueError(
                f"components has {component!r}: expected (weight, 'objective') with a weight above "
                f"0, and optionally a mode of {', '.join(MODES)} after it"
            )
        objective = parse(text)
        if loss_of(objective) is objective:
            raise ValueError(
                f"components has {text!r}, which has its own loss, but a mixture trains on the "
                "cross entropy of its targets: train it alone"
            )
        if objective.z_loss:
            raise ValueError(
                f"components has {text!r}, but all components share one loss: set z_loss on the "
                "mixture"
            )
        if isinstance(objective, SampledObjective) and (mode or objective.sample_per != "row"):
            raise ValueError(
                f"components has {component!r}, a mixture with a mode or sample_per=batch, which "
                "only the outer mixture can have: list its components here"
            )
        if any((text, mode) == (other[1], other[3]) for other in parsed):
            raise ValueError(f"components has {text!r} twice: add the weights")
        parsed.append((weight, text, objective, mode))
    if not parsed:
        raise ValueError("components is empty: expected ((weight, 'objective'), ...)")
    total = sum(weight for weight, *_ in parsed)
    if total == math.inf:
        raise ValueError("the weights of components overflow; lower them")
    return tuple(Component(weight / total, *rest) for weight, *rest in parsed)


def mode_tokens(vocabulary: Vocabulary, mode: str) -> tuple[int, ...]:
    """The token of a mode before each document; () for a component without a mode ('')."""
    return (vocabulary.modes[MODES.index(mode)],) if mode else ()


def _corrupt(components, spec, index, rng, row):
    """The Batch of components[index], which uses the start of the row; the components have the same
    `branch_key`."""
    objectives = tuple(component.objective for component in components)
    raw = [objective.lengths(spec).raw for objective in objectives]
    row = row[: max(raw)]
    if components[0].mode:
        modes = [mode_tokens(spec.vocabulary, c.mode)[0] for c in components]
        row = _insert_mode(row, jnp.asarray(modes, jnp.int32)[index], spec)
    used = jnp.arange(len(row), dtype=jnp.int32) < jnp.asarray(raw, jnp.int32)[index]
    row = jnp.where(used, row, jnp.full_like(row, spec.vocabulary.pad))
    return objectives[0].corrupt_component(objectives, index, spec, rng, row)


def _insert_mode(row, token, spec):
    """The row with `token` inserted before each document, cut to its old length."""
    segment_ids = document_ids(row, spec.vocabulary, spec.architecture)
    real = segment_ids > 0
    starts = real & (segment_ids != left_of(segment_ids, 0))
    keep = jnp.stack([starts, real], axis=1).reshape(-1)
    tokens = jnp.stack([jnp.full_like(row, token), row], axis=1).reshape(-1)
    row, _ = compact(keep, len(row), tokens, jnp.repeat(segment_ids, 2), spec.vocabulary.pad)
    return row


def _unify(batch, lengths, attention, with_positions):
    """The Batch in the structure that all components share: padded to `lengths`, with this attention
    type, and with target positions if any component has them."""

    def pad(tree, length):
        return jax.tree.map(lambda x: jnp.pad(x, (0, length - x.shape[0])), tree)

    inputs, positions = batch.inputs, batch.target_positions
    # causal: an empty prefix; bidirectional: all tokens are prefix
    if attention != inputs.attention:
        prefix = inputs.segment_ids > 0 if inputs.attention == "bidirectional" else False
        prefix = jnp.broadcast_to(jnp.asarray(prefix), inputs.tokens.shape)
        inputs = inputs.replace(attention=attention, prefix=prefix)
    if with_positions and positions is None:
        positions = jnp.arange(batch.targets.shape[0], dtype=jnp.int32)
    return batch.replace(
        inputs=pad(inputs, lengths.inputs),
        decoder_inputs=pad(batch.decoder_inputs, lengths.targets),
        targets=pad(batch.targets, lengths.targets),
        loss_weights=pad(batch.loss_weights, lengths.targets),
        target_positions=pad(positions, lengths.targets),
    )
