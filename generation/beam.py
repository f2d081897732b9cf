"""Beam search on the cached API, with the rules of transformers' beam search: finished
continuations are kept apart and ranked by log-probability / length ** length_penalty.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

import models
from generation import logits as processors
from generation import programs
from generation.programs import Options
from generation.prompts import make_generated

LOW = -1e9  # score of a beam that is not there


@struct.dataclass
class Sequences:
    """M sequences of each of P prompts, best first."""

    tokens: jax.Array  # int32[P,M,N], -1 after the end
    log_probs: jax.Array  # float32[P,M,N]
    scores: jax.Array  # float32[P,M]  sums of log-probabilities; of finished ones, with the penalty
    finished: jax.Array  # bool[P,M]

    def take(self, index: jax.Array) -> "Sequences":
        """Those at int32[P,M'] of each prompt."""
        return jax.tree.map(
            lambda x: jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), 1),
            self,
        )


@struct.dataclass
class Search:
    """The state of a search: a prompt is `open` while its finished sequences can improve."""

    cache: models.Cache  # of P * M rows
    prompt: jax.Array  # int32[P*M,T]
    running: Sequences
    ended: Sequences
    open: jax.Array  # bool[P]
    count: jax.Array  # int32[]


@partial(jax.jit, static_argnums=0, static_argnames=("options", "early_stopping"))
def beam_search(
    model, params, inputs, decoder_inputs, values, limits, penalty, *, options: Options,
    early_stopping: str,
) -> Sequences:  # fmt: skip
    """The best `options.repeats` sequences of each prompt; limits int32[P], penalty float32[]."""
    logits, cache, text = programs.read_prompts(model, params, inputs, decoder_inputs, options)
    beams, new = options.repeats, options.new_tokens
    count, length = len(text) // beams, text.shape[1] - new
    nothing = Sequences(
        jnp.full((count, beams, new), -1, jnp.int32),
        jnp.zeros((count, beams, new), jnp.float32),
        jnp.full((count, beams), LOW, jnp.float32),
        jnp.zeros((count, beams), bool),
    )
    running = nothing.replace(scores=nothing.scores.at[:, 0].set(0.0))
    search = Search(cache, text[:, :length], running, nothing, limits > 0, jnp.int32(0))
    choose = partial(
        _choose, values=values, limits=limits, penalty=penalty, options=options,
        early_stopping=early_stopping,
    )  # fmt: skip
    search, rows = choose(search, logits)

    def decode(carry):
        search, rows = carry
        cache = search.cache.reorder(rows)
        last = jax.lax.dynamic_slice_in_dim(search.running.tokens, search.count - 1, 1, axis=2)
        tokens = jnp.maximum(last.reshape(-1, 1), 0)
        hidden, cache = models.decode_step(model, params, tokens, cache)
        logits = programs.next_logits(model, params, hidden)
        return choose(search.replace(cache=cache), logits)

    search, _ = jax.lax.while_loop(lambda carry: carry[0].open.any(), decode, (search, rows))
    return programs.replicated(search.ended)


def _choose(search, logits, *, values, limits, penalty, options, early_stopping):
    """(the search after the next tokens, the row int32[P*M] of the cache that each beam continues)."""
    beams, vocab_size = options.repeats, logits.shape[1]
    prompts, count = len(limits), search.count
    log_probs = jax.nn.log_softmax(logits, axis=1)
    text = jnp.concatenate(
        [search.prompt, search.running.tokens.reshape(prompts * beams, -1)], axis=1
    )
    scores = processors.process(
        log_probs, values, options.ngram_size, options.eos_ids, text,
        search.prompt.shape[1] + count, count,
    ).reshape(prompts, beams, vocab_size)  # fmt: skip
    scores = (scores + search.running.scores[:, :, None]).reshape(prompts, -1)
    # Enough of them that `beams` continue even if all others end.
    top, index = jax.lax.top_k(scores, max(2, 1 + len(options.eos_ids)) * beams)
    beam, token = index // vocab_size, (index % vocab_size).astype(jnp.int32)
    found = search.running.take(beam)
    own = jnp.take_along_axis(log_probs.reshape(prompts, -1), index, axis=1)
    zero = jnp.int32(0)
    found = found.replace(
        tokens=jax.lax.dynamic_update_slice(found.tokens, token[:, :, None], (zero, zero, count)),
        log_probs=jax.lax.dynamic_update_slice(
            found.log_probs, own[:, :, None], (zero, zero, count)
        ),
        scores=top,
    )
    ends = programs.is_end(token, options.eos_ids) | (count + 1 >= limits)[:, None]
    # The beams that continue.
    alive = top + ends * jnp.float32(LOW)
    alive, index = jax.lax.top_k(alive, beams)
    running = found.take(index).replace(scores=alive)
    rows = jnp.take_along_axis(beam, index, axis=1)
    rows = (rows + jnp.arange(prompts, dtype=jnp.int32)[:, None] * beams).reshape(-1)
    # Those that end, if they are among the best `beams`.
    length = (count + 1).astype(jnp.float32)
    new = ends & (jnp.arange(top.shape[1]) < beams)[None]
    full = search.ended.finished.all(axis=1) if early_stopping == "true" else ~search.open
    closed = (full | ~search.open)[:, None]
    penalized = top / length**penalty + (~new | closed) * jnp.float32(LOW)
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b], axis=1),
        search.ended,
        found.replace(scores=penalized, finished=new),
    )
    ended = both.take(jax.lax.top_k(both.scores, beams)[1])
    ended = jax.tree.map(
        lambda old, new: jnp.where(closed.reshape(-1, *(1,) * (old.ndim - 1)), old, new),
        search.ended,
        ended,
    )
    # Whether a running beam can still improve the result.
    longest = length
    if early_stopping == "never":
        longest = jnp.where(penalty > 0, limits.astype(jnp.float32), length)
    best = running.scores[:, :1] / jnp.broadcast_to(longest, (prompts,))[:, None] ** penalty
    worst = jnp.where(ended.finished, ended.scores.min(axis=1, keepdims=True), jnp.float32(LOW))
    still_open = search.open & (best > worst).any(axis=1) & ~ends.all(axis=1)
    if early_stopping == "true":
        still_open &= ~ended.finished.all(axis=1)
    search = search.replace(running=running, ended=ended, open=still_open, count=count + 1)
    return search, rows


def search(run, on_tokens):
    """[[Generated, ...], ...]: the best beams of each prompt; `run` is a batch of generate.py."""
    config = run.config
    ended = run.call(
        f"beam search with {config.num_beams} beams",
        beam_search,
        *run.prompts(),
        run.values,
        run.place(run.batch.limits),
        jnp.float32(config.length_penalty),
        early_stopping=config.early_stopping,
    )
    ended = jax.device_get(ended)
    return [
        [
            make_generated(tokens, log_probs, run.options.eos_ids, score=score)
            for tokens, log_probs, score in zip(*of_prompt, strict=True)
        ][: config.num_return_sequences]
        for of_prompt, _ in zip(
            zip(ended.tokens, ended.log_probs, ended.scores, strict=True),
            run.batch.indices,
            strict=False,
        )
    ]
