"""fill_in_the_middle: where documents are cut, the order of the parts, and the rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from documents import VOCABULARY

import objectives
from objectives.base import ObjectiveSpec

PRE, SUF, MID = VOCABULARY.infill
SPEC = ObjectiveSpec("decoder", VOCABULARY, 20)
ROW = [*range(113, 119), 4, *range(121, 125), 4, *range(131, 140)]  # the last document is cut off
NUM_DRAWS = 4000


@functools.cache
def rearranged(fim_rate, spm_rate):
    objective = objectives.build("fill_in_the_middle", {"fim_rate": fim_rate, "spm_rate": spm_rate})
    row = jnp.asarray(ROW, jnp.int32)
    draw = jax.jit(jax.vmap(lambda rng: objective.rearrange(SPEC, rng, row)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), NUM_DRAWS)))


def first_document(row):
    return row[: row.tolist().index(4) + 1].tolist()


def test_rates_orders_and_cuts_follow_the_paper():
    """Half of the documents, half of those suffix first, both cuts uniform (section 3)."""
    num_moved, num_suffix_first = 0, 0
    for row in rearranged(0.5, 0.5):
        document = first_document(row)
        if document[0] != PRE:
            assert document == ROW[:7]
            continue
        at_suf, at_mid = document.index(SUF), document.index(MID)
        prefix, suffix = document[1:at_suf], document[at_suf + 1 : at_mid]
        rest = document[at_mid + 1 : -1]
        assert prefix + rest + suffix == ROW[:6] and document[-1] == 4
        num_moved += 1
        num_suffix_first += at_suf == 1  # or the prefix is empty
    assert abs(num_moved / NUM_DRAWS - 0.5) < 5 * 0.5 / NUM_DRAWS**0.5
    empty = 13 / 49
    error = num_suffix_first / num_moved - (0.5 + 0.5 * empty)
    assert abs(error) < 5 * 0.5 / num_moved**0.5
    counts = np.zeros((7, 7), int)
    for row in rearranged(1.0, 0.0):
        document = first_document(row)
        at_suf, at_mid = document.index(SUF), document.index(MID)
        counts[at_suf - 1, 6 - (at_mid - at_suf - 1)] += 1
    # Both cuts are uniform on 0..6, then sorted, so a < b has twice the probability of a = b.
    expected = (2 * np.triu(np.ones((7, 7)), 1) + np.eye(7)) / 49
    assert abs(counts / NUM_DRAWS - expected).max() < 5 * (2 / 49 / NUM_DRAWS) ** 0.5
    assert (np.array([first_document(row)[:2] for row in rearranged(1.0, 1.0)]) == [PRE, SUF]).all()


def test_documents_are_drawn_independently_and_excess_text_is_cut_before_the_move():
    rows = rearranged(0.5, 0.5)
    moved = np.stack([[PRE in first_document(r), r[len(first_document(r))] == PRE] for r in rows])
    assert abs(np.corrcoef(moved.T)[0, 1]) < 5 / NUM_DRAWS**0.5
    for row in rearranged(1.0, 0.0)[:100]:
        tokens = row[row > 0]
        # The nine special tokens would displace all of the third document.
        assert len(tokens) == 18 and (tokens == PRE).sum() == (tokens == MID).sum() == 2
        text = sorted(t for t in tokens.tolist() if t not in (PRE, SUF, MID))
        assert text == sorted(ROW[:12])


def test_every_token_but_the_first_of_a_document_is_a_target_and_the_loss_is_no_likelihood():
    objective = objectives.build("fill_in_the_middle")
    batch = objective.corrupt(SPEC, jax.random.key(0), jnp.asarray(ROW, jnp.int32))
    segment_ids = np.asarray(batch.inputs.segment_ids)
    is_target = (segment_ids[1:] == segment_ids[:-1]) & (segment_ids[1:] > 0)
    is_target = np.append(is_target, batch.targets[-1] > 0)
    np.testing.assert_array_equal(np.asarray(batch.loss_weights) > 0, is_target)
    assert not objective.is_likelihood and objectives.build("causal_lm").is_likelihood
