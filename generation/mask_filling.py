"""`fill`: rows of tokens with [MASK]s -> the rows with tokens in their place.
Encoders, and decoders pretrained by masked next-token prediction, generate by it: they read the whole row and
fill its masks all at once, from left to right (Wang and Cho 2019), or the most certain one first.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import models
from generation.batches import bucket, num_row_shards, place_rows
from generation.config import GenerationError, check_ranges
from models.config import option
from models.layers import lm_logits

ORDERS = ("joint", "left_to_right", "confidence")
_EXCLUDED = -1e30  # the score of a token that is no candidate


@dataclass(frozen=True)
class FillConfig:
    """How masks are filled. With the defaults the likeliest token of the most certain mask comes first."""

    order: str = option(
        "confidence",
        "joint: all masks at once, as if each were the only one that is filled; one by one: "
        "left_to_right, or by confidence (the mask whose likeliest token has the highest probability)",
        choices=ORDERS,
    )
    num_steps: int = option(
        0,
        "steps in which the masks of a row are filled, as many in each; 0: one mask per step",
        min=0,
    )
    num_return_sequences: int = option(
        1, "rows per row, best first: the search keeps as many; samples with a temperature", min=1
    )
    temperature: float = option(
        0.0, "sample from logits / temperature; 0: the likeliest", min=0.0, max=1e3
    )
    seed: int = option(0, "of the samples; row i without a seed of its own has seed + i", min=0)

    def __post_init__(self):
        check_ranges(self)
        if self.num_steps and self.order == "joint":
            raise GenerationError(
                f"num_steps={self.num_steps} with order=joint, which is one step; choose another order"
            )


@dataclass(frozen=True)
class Filled:
    """A row with its masks filled."""

    tokens: np.ndarray  # int32[T] of the row
    # float32[M] of the token of each mask, left to right, given the row when it was filled
    log_probs: np.ndarray
    score: float  # their sum


class _Scored(NamedTuple):
    """The predictions for one mask."""

    position: int
    ids: np.ndarray  # int32[k]
    log_probs: np.ndarray  # float32[k]
    highest: float  # log probability of the likeliest candidate


@dataclass
class _Hypothesis:
    """A row with some of its masks filled."""

    row: int  # of `rows`
    number: int  # of the sample
    tokens: np.ndarray
    left: list[int]  # positions of the masks that are left
    log_probs: dict[int, float] = field(default_factory=dict)  # by position

    @property
    def score(self):
        return sum(self.log_probs.values())

    def with_token(self, position: int, token: int, log_prob: float) -> "_Hypothesis":
        tokens = self.tokens.copy()
        tokens[position] = token
        left = [each for each in self.left if each != position]
        found = {**self.log_probs, position: log_prob}
        return _Hypothesis(self.row, self.number, tokens, left, found)


def fill(
    model,
    params,
    rows: Sequence[np.ndarray],
    config: FillConfig,
    *,
    mask: int,
    candidates: Sequence[tuple[int, int]],
    is_next: bool = False,
    seeds: Sequence[int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 32,
    report: Callable[[int], None] = lambda masks: None,
) -> list[list[Filled]]:
    """The filled rows of each row, best score first; samples in the order of their number.

    Args:
      rows: int32[n] each, with all special tokens. Each of them is one document.
      mask: the token to fill in.
      candidates: half-open ranges of the ids that may be filled in. Probabilities come from the softmax
        over the whole vocabulary.
      is_next: the model predicts a token at the position before it (masked next-token prediction).
      seeds: of each row; a row with its seed has the same samples whatever the others are.
      report: receives the number of masks that each step has filled.

    Raises GenerationError, with the number of the row, for one without a mask, one that is too long for
    the model, and a mask that no position predicts.
    """
    positions = [
        mask_positions(model, row, f"row {n}", mask=mask, is_next=is_next)
        for n, row in enumerate(rows)
    ]
    seeds = seeds if seeds is not None else [config.seed + n for n in range(len(rows))]
    samples = config.num_return_sequences if config.temperature else 1
    beams = [
        [_Hypothesis(n, number, np.array(row, np.int32), positions[n]) for number in range(samples)]
        for n, row in enumerate(rows)
    ]
    allowed = _allowed(model, candidates)
    score = partial(
        _scores, model, params, mesh=mesh, batch_size=batch_size, is_next=is_next,
        allowed=allowed, temperature=config.temperature,
        k=1 if config.temperature else min(config.num_return_sequences, int(allowed.sum())),
        seeds=seeds,
    )  # fmt: skip
    for step in itertools.count():
        hypotheses = [each for beam in beams if beam[0].left for each in beam]
        if not hypotheses:
            break
        counts = [_count(config, step, len(each.left)) for each in hypotheses]
        asked = [
            each.left[:count] if config.order == "left_to_right" else each.left
            for each, count in zip(hypotheses, counts, strict=True)
        ]
        scored = zip(score(hypotheses, asked), counts, strict=True)
        found = dict(zip(map(id, hypotheses), scored, strict=True))
        for number, beam in enumerate(beams):
            if beam[0].left:
                beams[number] = _extended(beam, found, config)
                report(len(beam[0].left) - len(beams[number][0].left))
    return [[_filled(each) for each in beam] for beam in beams]


def top_tokens(
    model, params, rows: Sequence[np.ndarray], k: int, *, mask: int, candidates, is_next: bool = False,
    mesh: jax.sharding.Mesh | None = None, batch_size: int = 32,
) -> list[list[tuple[np.ndarray, np.ndarray]]]:  # fmt: skip
    """(ids int32[k], log probabilities float32[k]) of the likeliest candidates for each mask of each row,
    left to right, given all other masks as masks. Arguments and errors as in `fill`."""
    positions = [
        mask_positions(model, row, f"row {n}", mask=mask, is_next=is_next)
        for n, row in enumerate(rows)
    ]
    hypotheses = [
        _Hypothesis(n, 0, np.array(row, np.int32), positions[n]) for n, row in enumerate(rows)
    ]
    allowed = _allowed(model, candidates)
    found = _scores(
        model, params, hypotheses, positions, mesh=mesh, batch_size=batch_size, is_next=is_next,
        allowed=allowed, temperature=0.0, k=min(k, int(allowed.sum())), seeds=[0] * len(rows),
    )  # fmt: skip
    return [[(mask.ids, mask.log_probs) for mask in each] for each in found]


def mask_positions(model, row, name: str, *, mask: int, is_next: bool = False) -> list[int]:
    """The positions of the masks of a row. Raises GenerationError, which calls it `name`, as `fill` does."""
    positions, limit = np.flatnonzero(np.asarray(row) == mask).tolist(), longest_row(model.config)
    if len(row) > limit:
        raise GenerationError(
            f"{name} has {len(row):,} tokens, but the model reads at most {limit:,}: shorten it"
        )
    if not positions:
        raise GenerationError(f"{name} has no mask: nothing is to be filled in")
    if is_next and positions[0] == 0:
        raise GenerationError(
            f"{name} starts with a mask, but the model predicts a token at the position before it: put some "
            "text before the mask"
        )
    return positions


def longest_row(config) -> int:
    """Tokens that a model reads at most: its positions, or where they have no end what a device can hold."""
    return config.max_length if config.positions == "learned" else max(config.max_length, 8192)


def _allowed(model, candidates):
    allowed = np.zeros(model.config.padded_vocab_size, bool)
    for low, high in candidates:
        allowed[low:high] = True
    allowed[model.config.vocab_size :] = False
    return allowed


def _count(config, step, left):
    """The number of masks that a step fills in a row with `left` masks."""
    if config.order == "joint":
        return left
    return -(-left // max(config.num_steps - step, 1)) if config.num_steps else 1


def _extended(beam, found, config):
    """The hypotheses of a row after one step, best first; found: {id of a hypothesis: (what `_scores`
    returns, number of masks to fill)}."""
    pool = []
    for hypothesis in beam:
        masks, count = found[id(hypothesis)]
        if config.order == "confidence":
            masks = sorted(masks, key=lambda mask: -mask.highest)[:count]
        pool += _search([hypothesis], masks, config.num_return_sequences)
    if config.temperature:
        return pool  # one for each sample
    unique = {each.tokens.tobytes(): each for each in sorted(pool, key=lambda each: each.score)}
    return sorted(unique.values(), key=lambda each: -each.score)[: config.num_return_sequences]


def _search(pool, masks, n):
    """The n best hypotheses with these masks filled. One step predicts each mask alone, so it is exact."""
    for mask in masks:
        tokens = list(zip(mask.ids.tolist(), mask.log_probs.tolist(), strict=True))
        pool = [each.with_token(mask.position, *token) for each in pool for token in tokens]
        pool = sorted(pool, key=lambda each: -each.score)[:n]
    return pool


def _filled(hypothesis):
    log_probs = np.array(
        [hypothesis.log_probs[p] for p in sorted(hypothesis.log_probs)], np.float32
    )
    return Filled(hypothesis.tokens, log_probs, float(log_probs.sum()))


def _scores(
    model, params, hypotheses, positions, *, mesh, batch_size, is_next, allowed, temperature, k, seeds
):  # fmt: skip
    """For each hypothesis the _Scored of its `positions`: k likeliest candidates, or one sample."""
    limit = longest_row(model.config)
    shards = num_row_shards(mesh)
    order = sorted(range(len(hypotheses)), key=lambda i: len(hypotheses[i].tokens))
    found = [None] * len(hypotheses)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        rows = -(-bucket(len(part)) // shards) * shards
        length = min(bucket(max(len(hypotheses[i].tokens) for i in part), 16), limit)
        slots = bucket(max(len(positions[i]) for i in part))
        tokens, segment_ids = np.zeros((2, rows, length), np.int32)
        at = np.zeros((rows, slots), np.int32)
        keys = np.zeros((rows, 2), np.uint32)  # seed, number of the sample
        for place, i in enumerate(part):
            tokens[place, : len(hypotheses[i].tokens)] = hypotheses[i].tokens
            segment_ids[place, : len(hypotheses[i].tokens)] = 1
            at[place, : len(positions[i])] = positions[i]
            keys[place] = seeds[hypotheses[i].row] % 2**32, hypotheses[i].number
        arrays = [place_rows(mesh, x) for x in (tokens, segment_ids, at, keys)]
        scored = _score_step(model, params, *arrays, allowed, temperature, is_next, k)
        ids, values, highest = jax.device_get(scored)
        for place, i in enumerate(part):
            found[i] = [
                _Scored(position, ids[place, slot], values[place, slot], highest[place, slot])
                for slot, position in enumerate(positions[i])
            ]
    return found


@partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _score_step(
    model, params, tokens, segment_ids, at, keys, allowed, temperature, is_next, k
):  # fmt: skip
    """(ids int32[B,P,k], log probabilities float32[B,P,k], the highest log probability float32[B,P]) of the
    positions `at` int32[B,P] of tokens int32[B,T]."""
    hidden = model.apply({"params": params}, models.make_inputs(tokens, segment_ids))
    read_at = jnp.maximum(at - int(is_next), 0)[:, :, None]
    hidden = jnp.take_along_axis(hidden, read_at, axis=1, mode="clip")
    features = model.apply({"params": params}, hidden, method="lm_features")
    table, bias = model.apply({"params": params}, method="output_embedding")
    known = (jnp.arange(table.shape[0], dtype=jnp.int32) < model.config.vocab_size)[None]

    def of_slot(slot):  # one position of each row at a time, so that [B,P,V] never exists
        features, positions = slot
        logits = lm_logits(features[:, None], table, bias, model.config.final_logit_softcap)[:, 0]
        logits = jnp.where(known, logits, jnp.float32(_EXCLUDED))
        log_probs = jax.nn.log_softmax(logits)
        scores = jnp.where(allowed[None], log_probs, jnp.float32(_EXCLUDED))
        values, ids = jax.lax.top_k(scores, k)
        highest = values[:, 0]
        if temperature:
            noise = jax.vmap(lambda key, at: _gumbel(key, at, table.shape[0]))(keys, positions)
            perturbed = jnp.where(
                allowed[None], logits / temperature + noise, jnp.float32(_EXCLUDED)
            )
            ids = perturbed.argmax(-1)[:, None].astype(jnp.int32)
            values = jnp.take_along_axis(log_probs, ids, axis=1)
        return ids, values, highest

    slots = jnp.moveaxis(features, 1, 0), jnp.moveaxis(at, 1, 0)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), jax.lax.map(of_slot, slots))


def _gumbel(key, position, size):
    """float32[size] of noise that depends on the seed, the number of the sample and the position."""
    rng = jax.random.key(key[0])
    rng = jax.random.fold_in(jax.random.fold_in(rng, key[1]), position)
    return jax.random.gumbel(rng, (size,))
