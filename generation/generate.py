"""`generate`: prompts of tokens -> generated tokens, by the programs of programs.py and beam.py.
The prompts may have different lengths; each row's result depends on that row alone.
"""

import contextlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from generation import beam, programs, sampling
from generation.batches import num_row_shards, place_rows
from generation.config import GenerationConfig
from generation.logits import values_of
from generation.prompts import (
    Generated,
    Prompt,
    adapter_positions,
    check_prompts,
    make_batches,
    make_generated,
)
from models.positions import rescaling_length

CHUNK = 16  # tokens between two calls of on_tokens


def generate(
    model,
    params,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    *,
    eos_ids: Sequence[int],
    seeds: Sequence[int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    on_tokens: Callable[[int, np.ndarray], bool] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[list[Generated]]:
    """The generated sequences of each prompt, best score first.

    Args:
      model, params: of `models.build`; the logical axis rules in force are used, as in training.
      eos_ids: tokens that end a sequence.
      seeds: one for each prompt without a seed of its own; default: config.seed + its index.
      mesh: rows are split over its axes `data` and `fsdp`.
      on_tokens: called with (row, new tokens int32[n]) after some steps, and at the end of a row. It
        stops the row by returning True. Row i * num_return_sequences + j is sequence j of prompt i.
      log: receives a line before and after each compilation.

    Raises:
      GenerationError: options or prompts that the model cannot use, before anything is compiled.
    """
    eos_ids = tuple(sorted({int(token) for token in eos_ids}))
    check_prompts(model, prompts, config, eos_ids, on_tokens, log)
    seeds = [
        prompt.seed if prompt.seed is not None else seeds[i] if seeds else config.seed + i
        for i, prompt in enumerate(prompts)
    ]
    batches = make_batches(model, prompts, config, seeds, num_row_shards(mesh))
    found: list = [None] * len(prompts)
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        for batch in batches:
            run = beam.search if config.num_beams > 1 else _decode
            results = run(_Batch(model, params, config, eos_ids, mesh, batch, log), on_tokens)
            for index, sequences in zip(batch.indices, results, strict=True):
                found[index] = sorted(sequences, key=lambda each: -each.score)
    return found


class _Batch:
    """A batch on the devices, and the calls of compiled programs for it."""

    def __init__(self, model, params, config, eos_ids, mesh, batch, log):
        self.model, self.params, self.config, self.batch = model, params, config, batch
        self._mesh, self._log = mesh, log
        prompt = batch.inputs if batch.decoder_inputs is None else batch.decoder_inputs
        length, self.repeats = prompt.tokens.shape[1], config.rows_per_prompt
        self.options = programs.Options(
            capacity=adapter_positions(model)["decoder"] + length + batch.new_tokens,
            new_tokens=batch.new_tokens,
            repeats=self.repeats,
            eos_ids=eos_ids,
            top_k=config.top_k,
            ngram_size=config.no_repeat_ngram_size,
        )
        self.values = jax.tree.map(jnp.asarray, values_of(config, model.config.vocab_size))
        self.limits = np.repeat(batch.limits, self.repeats)
        source = (
            "" if batch.decoder_inputs is None else f" after {batch.inputs.tokens.shape[1]} read"
        )
        self._shape = f"{len(self.limits)} rows x ({length} + {batch.new_tokens}) tokens{source}"

    def steps_left(self, count: int, read: int) -> int:
        """Tokens that can be decoded until RoPE's frequencies change for a row with `count` generated
        tokens, if its cache has keys of the prompt and its first `read` generated tokens."""
        limit = rescaling_length(self.model.config)
        if not limit:
            return self.batch.new_tokens
        prompt = (
            self.batch.inputs if self.batch.decoder_inputs is None else self.batch.decoder_inputs
        )
        own = prompt.positions[:, -1] + 1 + adapter_positions(self.model)["decoder"]
        left = limit - (own + count - 1)  # of rows that are not that long yet
        if self.model.config.rope_scaling == "longrope":
            left = np.where(own + read > limit, self.batch.new_tokens, left)
        return int(np.clip(left.min(), 0, self.batch.new_tokens))

    def place(self, x):
        """A NumPy array with a first axis of rows or prompts, on the devices."""
        return place_rows(self._mesh, x)

    def prompts(self):
        """The inputs on the devices."""
        return jax.tree.map(self.place, (self.batch.inputs, self.batch.decoder_inputs))

    def call(self, what, program, *arguments, **static):
        """program(model, params, *arguments, options=...)"""
        what, own = f"{what} for {self._shape}", (self.model, self.params)
        return programs.announced(
            self._log, what, program, *own, *arguments, options=self.options, **static
        )


def _decode(run: _Batch, on_tokens):
    """[[Generated, ...], ...]: the sequences of each prompt by greedy search or sampling."""
    numbers = np.tile(np.arange(run.repeats, dtype=np.int32), len(run.batch.limits))
    seeds = np.repeat(run.batch.seeds, run.repeats)
    keys = sampling.row_keys(run.place(seeds), run.place(numbers))
    limits = run.place(run.limits)
    rest = run.values, keys, limits
    rows = run.call("the prefill", programs.start, *run.prompts(), *rest)
    num_rows = len(run.batch.indices) * run.repeats
    reported, stopped = np.zeros(num_rows, np.int64), np.zeros(len(run.limits), bool)
    count, read = 1, 0  # generated tokens; how many of them the last prefill read
    chunk = 0 if on_tokens else run.batch.new_tokens  # at first, 0: reports the first token at once
    while True:
        steps = min(chunk, run.steps_left(count, read))
        if chunk and not steps:
            rows = run.call(
                "a prefill of all tokens", programs.start_again, *run.prompts(), rows, *rest
            )
            read = count
        rows, found = run.call("a decode step", programs.advance, rows, *rest, jnp.int32(steps))
        if on_tokens:
            chunk = CHUNK
        tokens, log_probs, done, count = jax.device_get(found)
        lengths = (tokens >= 0).sum(axis=1)
        if on_tokens:
            for row in range(num_rows):
                new = tokens[row, reported[row] : lengths[row]]
                reported[row] = lengths[row]
                prompt, number = divmod(row, run.repeats)
                index = run.batch.indices[prompt] * run.repeats + number
                if len(new) and not stopped[row] and on_tokens(index, new):
                    stopped[row] = True
            rows = rows.replace(done=run.place(done | stopped))
        if (done | stopped).all():
            break
    sequences = [
        make_generated(tokens[row], log_probs[row], run.options.eos_ids, stopped[row])
        for row in range(num_rows)
    ]
    return [sequences[i : i + run.repeats] for i in range(0, num_rows, run.repeats)]
