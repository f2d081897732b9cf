"""The compiled programs of greedy search and sampling: `start` reads the prompts and chooses the first
tokens, `advance` decodes a number of tokens. Both are called through `announced`.
"""

import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

import models
from generation import logits as processors
from generation import sampling
from models.layers import lm_logits

_SEEN = set()  # one key for each compiled program


@dataclass(frozen=True)
class Options:
    """What a program depends on besides shapes."""

    capacity: int  # tokens of the cache
    new_tokens: int  # N, columns for generated tokens
    repeats: int  # rows of each prompt: samples or beams
    eos_ids: tuple[int, ...]
    top_k: int = 0
    ngram_size: int = 0


@struct.dataclass
class Rows:
    """R rows in progress. A token of `text` is -1 before a prompt and after the end of a row."""

    cache: models.Cache
    text: jax.Array  # int32[R,T+N]  prompts, padded on the left, and generated tokens
    log_probs: jax.Array  # float32[R,N]
    done: jax.Array  # bool[R]
    count: jax.Array  # int32[]  generated tokens


def announced(log, what: str, program, *arguments, **static):
    """Calls a compiled program, with a line in the log before it is compiled and one after it."""
    shapes = jax.tree.map(
        lambda x: (getattr(x, "shape", ()), str(getattr(x, "dtype", ""))), arguments[2:]
    )
    key = (program, arguments[:1], tuple(static.items()), jax.sharding.get_abstract_mesh(),
           jax.tree.structure(arguments), str(shapes))  # fmt: skip
    if key in _SEEN:
        return program(*arguments, **static)
    _SEEN.add(key)
    log(f"compiling {what} (program {len(_SEEN)})")
    began = time.perf_counter()
    found = program(*arguments, **static)  # returns before it has run
    log(f"compiled in {time.perf_counter() - began:.1f} s")
    return found


def next_logits(model, params, hidden: jax.Array) -> jax.Array:
    """hidden [R,T,D] -> float32[R,vocab_size] after the last position."""
    config = model.config
    features = model.apply({"params": params}, hidden[:, -1:], method="lm_features")
    head = model.apply({"params": params}, method="output_embedding")
    return lm_logits(features, *head, config.final_logit_softcap)[:, 0, : config.vocab_size]


def read_prompts(model, params, inputs, decoder_inputs, options: Options):
    """(logits float32[R,V] of the first new tokens, cache of R rows, text int32[R,T+N])."""
    hidden, cache = models.prefill(model, params, inputs, decoder_inputs, capacity=options.capacity)
    logits = next_logits(model, params, hidden)
    prompt = inputs if decoder_inputs is None else decoder_inputs
    text = jnp.where(prompt.segment_ids > 0, prompt.tokens, jnp.int32(-1))
    text = jnp.pad(text, ((0, 0), (0, options.new_tokens)), constant_values=-1)
    if options.repeats > 1:
        rows = jnp.repeat(jnp.arange(len(text), dtype=jnp.int32), options.repeats)
        logits, cache, text = logits[rows], cache.take(rows), text[rows]
    return logits, cache, text


@partial(jax.jit, static_argnums=0, static_argnames="options")
def start(model, params, inputs, decoder_inputs, values, keys, limits, *, options: Options) -> Rows:
    """The rows after the first new tokens. keys [R] and limits int32[R] belong to rows, all else
    to prompts; `values` come from processors.values_of."""
    logits, cache, text = read_prompts(model, params, inputs, decoder_inputs, options)
    rows = Rows(
        cache,
        text,
        jnp.zeros((len(text), options.new_tokens), jnp.float32),
        limits == 0,
        jnp.int32(0),
    )
    return _choose(rows, logits, values, keys, limits, options)


@partial(jax.jit, static_argnums=0, static_argnames="options")
def start_again(
    model, params, inputs, decoder_inputs, rows: Rows, values, keys, limits, *, options: Options
) -> Rows:
    """The rows after one more token, with a new cache of their whole text: where RoPE's frequencies depend
    on the length, the old keys do not fit a longer text. inputs and decoder_inputs as in `start`."""
    prompt = inputs if decoder_inputs is None else decoder_inputs
    repeat = partial(jnp.repeat, repeats=options.repeats, axis=0)
    # The last token moves to the last column.
    text = jnp.roll(rows.text, options.new_tokens - rows.count, axis=1)
    prefix = None
    if prompt.prefix is not None:
        prefix = jnp.pad(repeat(prompt.prefix), ((0, 0), (0, options.new_tokens)))
        prefix = jnp.roll(prefix, options.new_tokens - rows.count, axis=1)
    again = models.make_inputs(
        jnp.maximum(text, 0), (text >= 0).astype(jnp.int32), prompt.attention, prefix
    )
    if decoder_inputs is None:
        read = (again, None)
    else:
        read = (jax.tree.map(repeat, inputs), again)
    capacity = options.capacity + options.new_tokens
    hidden, cache = models.prefill(model, params, *read, capacity=capacity)
    logits = next_logits(model, params, hidden)
    return _choose(rows.replace(cache=cache), logits, values, keys, limits, options)


@partial(jax.jit, static_argnums=0, static_argnames="options", donate_argnums=2)
def advance(
    model, params, rows: Rows, values, keys, limits, steps, *, options: Options
) -> tuple[Rows, tuple]:
    """Up to `steps` more tokens of each row, until all are done. Also returns (generated int32[R,N],
    log_probs, done, count), whole on every device."""

    def is_active(carry):
        step, rows = carry
        return (step < steps) & ~rows.done.all()

    def decode(carry):
        step, rows = carry
        last = rows.text.shape[1] - options.new_tokens + rows.count - 1
        tokens = jax.lax.dynamic_slice_in_dim(rows.text, last, 1, axis=1)
        hidden, cache = models.decode_step(model, params, jnp.maximum(tokens, 0), rows.cache)
        logits = next_logits(model, params, hidden)
        rows = _choose(rows.replace(cache=cache), logits, values, keys, limits, options)
        return step + 1, rows

    _, rows = jax.lax.while_loop(is_active, decode, (jnp.int32(0), rows))
    generated = rows.text[:, rows.text.shape[1] - options.new_tokens :]
    return rows, replicated((generated, rows.log_probs, rows.done, rows.count))


def _choose(rows: Rows, logits, values, keys, limits, options: Options) -> Rows:
    """The rows with their next tokens, from the logits float32[R,V] of the model."""
    num_prompt = rows.text.shape[1] - options.new_tokens
    column = num_prompt + rows.count
    scores = processors.process(
        logits, values, options.ngram_size, options.eos_ids, rows.text, column, rows.count
    )
    if "temperature" in values:
        scores = sampling.truncate(scores, values, options.top_k)
        tokens = sampling.sample(scores, keys, rows.count)
    else:
        tokens = jnp.argmax(scores, axis=1).astype(jnp.int32)
    found = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    found = found - jax.nn.logsumexp(logits, axis=1)
    found = jnp.where(rows.done, jnp.float32(0), found)
    tokens = jnp.where(rows.done, jnp.int32(-1), tokens)
    zero = jnp.int32(0)
    return rows.replace(
        text=jax.lax.dynamic_update_slice(rows.text, tokens[:, None], (zero, column)),
        log_probs=jax.lax.dynamic_update_slice(rows.log_probs, found[:, None], (zero, rows.count)),
        done=rows.done | is_end(tokens, options.eos_ids) | (rows.count + 1 >= limits),
        count=rows.count + 1,
    )


def is_end(tokens: jax.Array, eos_ids: tuple[int, ...]) -> jax.Array:
    """bool like tokens."""
    ends = jnp.zeros(tokens.shape, bool)
    for token in eos_ids:
        ends |= tokens == token
    return ends


def replicated(tree):
    """A tree whole on every device of the mesh in force, so that every process can read it."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())
