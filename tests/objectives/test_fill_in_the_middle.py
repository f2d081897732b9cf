"""fill_in_the_middle: what is cut where, in which order it is written, and how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from framed import VOCABULARY

import objectives
from objectives.base import Setting

PRE, SUF, MID = VOCABULARY.infill
SETTING = Setting("decoder", VOCABULARY, 20)
ROW = [*range(113, 119), 4, *range(121, 125), 4, *range(131, 140)]  # the last one is cut off
MANY = 4000


@functools.cache
def rearranged(rate, spm):
    objective = objectives.build("fill_in_the_middle", {"rate": rate, "spm": spm})
    row = jnp.asarray(ROW, jnp.int32)
    draw = jax.jit(jax.vmap(lambda key: objective.rearranged(SETTING, key, row)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), MANY)))


def first_document(row):
    return row[: row.tolist().index(4) + 1].tolist()


def test_rates_orders_and_cuts_are_those_of_the_paper():
    """Half of the documents, half of those suffix first, both cuts uniform (section 3)."""
    moved, first = 0, 0
    for row in rearranged(0.5, 0.5):
        document = first_document(row)
        if document[0] != PRE:
            assert document == ROW[:7]
            continue
        at, to = document.index(SUF), document.index(MID)
        prefix, suffix, rest = document[1:at], document[at + 1 : to], document[to + 1 : -1]
        assert prefix + rest + suffix == ROW[:6] and document[-1] == 4
        moved += 1
        first += at == 1  # or an empty prefix
    assert abs(moved / MANY - 0.5) < 5 * 0.5 / MANY**0.5
    empty = 13 / 49
    assert abs(first / moved - (0.5 + 0.5 * empty)) < 5 * 0.5 / moved**0.5
    whole = rearranged(1.0, 0.0)
    counts = np.zeros((7, 7), int)
    for row in whole:
        document = first_document(row)
        at, to = document.index(SUF), document.index(MID)
        counts[at - 1, 6 - (to - at - 1)] += 1
    # Both cuts uniform on 0..6, in order: a < b twice as likely as a = b.
    expected = (2 * np.triu(np.ones((7, 7)), 1) + np.eye(7)) / 49
    assert abs(counts / MANY - expected).max() < 5 * (2 / 49 / MANY) ** 0.5
    assert (np.array([first_document(row)[:2] for row in rearranged(1.0, 1.0)]) == [PRE, SUF]).all()


def test_documents_are_drawn_apart_and_what_there_is_no_room_for_is_cut_off_first():
    rows = rearranged(0.5, 0.5)
    moved = np.stack([[PRE in first_document(r), r[len(first_document(r))] == PRE] for r in rows])
    assert abs(np.corrcoef(moved.T)[0, 1]) < 5 / MANY**0.5
    for row in rearranged(1.0, 0.0)[:100]:
        tokens = row[row > 0]
        # Nine tokens more would leave no room for any of the third document.
        assert len(tokens) == 18 and (tokens == PRE).sum() == (tokens == MID).sum() == 2
        text = sorted(t for t in tokens.tolist() if t not in (PRE, SUF, MID))
        assert text == sorted(ROW[:12])


def test_every_token_is_a_target_but_a_documents_first_and_the_loss_is_no_likelihood():
    objective = objectives.build("fill_in_the_middle")
    batch = objective.corrupt(SETTING, jax.random.key(0), jnp.asarray(ROW, jnp.int32))
    segments = np.asarray(batch.inputs.segments)
    told = (segments[1:] == segments[:-1]) & (segments[1:] > 0)
    inside = np.append(told, batch.targets[-1] > 0)
    np.testing.assert_array_equal(np.asarray(batch.weights) > 0, inside)
    assert not objective.likelihood and objectives.build("causal_lm").likelihood
