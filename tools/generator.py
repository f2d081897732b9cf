"""A run, or a published model, that generates text: prompts of text -> texts, with their scores.

Between generation/, which has tokens, and tools/generate.py. Used by any tool that needs text.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.chat_template import ChatTemplate, chat_template
from data.text_stream import TextStream
from data.tokenizer import Tokenizer
from generation import FillConfig, Generated, GenerationConfig, Prompt, fill, generate, longest_row
from generation.config import BEAMS, SAMPLING
from tools.filler import way_of
from tools.loaded_run import LoadedRun, load_run, resolve_run
from tools.prompts import (
    PromptReader,
    check_generates,
    column_of,
    prompt_reader,
    published_origin,
    published_settings,
)
from training import config as config_lib
from training import run_directory, sharding
from training.config import ConfigError

log = logging.getLogger("triptych")
# The options of generation that a model which fills in masks has.
_FILLING = ("max_new_tokens", "temperature", "num_return_sequences", "seed", "batch_size")


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt to be continued: its tokens, and the tokens of the text before the output, for the blank
    between them."""

    prompt: Prompt
    before: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Completion:
    """One generated text. The tokens end with the end token, or with the token that completes a stop
    string; the text has neither."""

    text: str
    tokens: list[int]
    log_probs: list[float]  # natural logarithms, of the model before temperature and truncation
    score: float  # sum of log_probs; of a beam, as in generation.Generated
    finish_reason: str  # 'stop': an end token or a stop string; 'length'


class Generator:
    """The model of a run, and how it reads prompts.

    Attributes:
      name: the run and its step.
      column: of the prompts in a file.
    """

    def __init__(self, run: str, mesh=None):
        """Opens a run directory[@step] or a Hugging Face directory. Raises ConfigError for a model that
        generates no text, before its parameters are read."""
        directory, step, self.name = resolve_run(run)
        self._run, self._mesh = f"{directory}@{step}", mesh
        self._warnings = set()  # that were logged
        record = run_directory.read_config(directory)
        origin = published_origin(run_directory.read_manifest(directory))
        check_generates(record, origin, self.name, run)
        if record["model"]["architecture"] == "encoder":
            way_of(record, origin, self.name)  # raises for one that does not predict masks
        self.column = column_of(record)

    @functools.cached_property
    def loaded(self) -> LoadedRun:
        """The model with its parameters, which are read here."""
        return load_run(self._run, self._mesh)

    @functools.cached_property
    def reader(self) -> PromptReader:
        """How the model reads prompts."""
        return prompt_reader(self.loaded)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.loaded.tokenizer

    @functools.cached_property
    def template(self) -> ChatTemplate | None:
        """None for an encoder-decoder: a dialogue is the text of a decoder."""
        is_decoder = self.loaded.config.architecture == "decoder"
        return chat_template(self.tokenizer) if is_decoder else None

    @property
    def context(self) -> int:
        """Tokens that the model was trained to read in a row."""
        return self.loaded.config.max_length

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.name}: {self.loaded.config.architecture}, {self.reader.describe}"

    # ---- Options ---------------------------------------------------------------------------------

    def defaults(self) -> dict[str, Any]:
        """The run's own options of generation: the length of a task's targets, or the options of
        generation_config.json. As in transformers, they hold where none is given."""
        found = {}
        if self.reader.max_new_tokens:
            found["max_new_tokens"] = self.reader.max_new_tokens
        if "task" in self.loaded.record["config"]:
            return found
        given = published_settings(self.loaded)
        names = {field.name for field in dataclasses.fields(GenerationConfig)}
        names -= {"temperature", *SAMPLING, *BEAMS, "seed", "batch_size"}
        found |= {name: given[name] for name in names if name in given}
        if found.get("num_beams", 1) > 1:
            found |= {name: given[name] for name in BEAMS if name in given}
        elif given.get("do_sample"):
            names = ("temperature", *SAMPLING)
            found |= {"temperature": 1.0, "top_k": 50} | {k: given[k] for k in names if k in given}
        if "early_stopping" in found:
            found["early_stopping"] = str(found["early_stopping"]).lower()
        return found

    def config(self, given: dict[str, Any]) -> GenerationConfig:
        """The options of generation: `given` (values, or texts of the command line), over `defaults`.
        Raises ConfigError of one line that names the flag."""
        defaults = self.defaults()
        if not {"temperature", "num_beams"}.isdisjoint(given):  # another search than the run's
            search = ("temperature", "num_beams", *SAMPLING, *BEAMS)
            defaults = {key: value for key, value in defaults.items() if key not in search}
        wrong = [] if self.reader.masks is None else sorted({*given}.difference(_FILLING))
        if wrong:
            raise ConfigError(
                f"--{wrong[0]} is an option of models that generate from left to right, but {self.name} "
                f"fills in masks; leave it out: it has {', '.join(_FILLING)}"
            )
        try:
            return config_lib.resolve(GenerationConfig, defaults | given, "generation")
        except ConfigError as error:
            message = str(error).replace("generation.", "--").removeprefix("generation: ")
            raise ConfigError(message) from error

    # ---- Prompts ---------------------------------------------------------------------------------

    def requests(self, texts: list[str]) -> list[Request]:
        """The requests of prompts. Raises ValueError, in one line, for an empty one."""
        plain = self.tokenizer.encode_batch(texts) if self.reader.continues else [()] * len(texts)
        return [Request(*pair) for pair in zip(self.reader.read(texts), plain, strict=True)]

    def chat_request(self, messages: list[dict]) -> Request:
        """The request of a dialogue, for the assistant's next answer. Raises ConfigError for a model
        without a chat template, ValueError for messages that it refuses."""
        if self.template is None:
            raise ConfigError(
                f"{self.name} has no chat template, so it has no dialogues; give it --prompt, or a published "
                "model with chat_template.jinja"
            )
        return Request(Prompt(self.template.encode(self.tokenizer, messages)))

    def check_lengths(
        self, requests: list[Request], config: GenerationConfig, places: Sequence[str] = ()
    ) -> list[Request]:
        """The requests, generating no more tokens than the model has positions for. Raises ValueError for
        one that leaves none; places: names of the requests for errors."""
        places = places or [f"prompt {number + 1}" for number in range(len(requests))]
        model, found, num_cut = self.loaded.config, [], 0
        if self.reader.masks is not None:
            masks = config.max_new_tokens + len(self.reader.masks.suffix)
            for place, request in zip(places, requests, strict=True):
                if len(request.prompt.tokens) + masks > longest_row(model):
                    raise ValueError(
                        f"{place} has {len(request.prompt.tokens):,} tokens and {masks:,} after it, "
                        f"but {self.name} reads {longest_row(model):,}: shorten it, or lower --max_new_tokens"
                    )
            return requests
        both = model.architecture == "encoder_decoder"
        for place, request in zip(places, requests, strict=True):
            prompt = request.prompt
            read = len(prompt.decoder_tokens if both else prompt.tokens)
            left = model.max_length - read + 1  # the last token is not read
            if both and len(prompt.tokens) > model.max_length:
                left = 0
            if model.positions == "learned" and left < config.max_new_tokens:
                if left < 1:
                    raise ValueError(
                        f"{place} has {len(prompt.tokens):,} tokens, but {self.name} has "
                        f"{model.max_length:,} positions: shorten it"
                    )
                num_cut, prompt = num_cut + 1, dataclasses.replace(prompt, max_new_tokens=left)
            found.append(dataclasses.replace(request, prompt=prompt))
        if num_cut:
            log.info(
                f"{num_cut:,} texts end before --max_new_tokens={config.max_new_tokens}: the model has "
                f"{model.max_length:,} positions"
            )
        return found

    # ---- Generation ------------------------------------------------------------------------------

    def _log(self, line):
        """Logs a line; a warning only once."""
        if line not in self._warnings:
            log.info(line)
        if line.startswith("warning"):
            self._warnings.add(line)

    def _log_before_text(self, line):
        """As `_log`, where text is shown as it comes: of the programs for it one line, before its first
        token. Other lines about them would be inside the text."""
        if not line.startswith("compil"):
            self._log(line)
        elif line.startswith("compiling the prefill"):
            log.info("compiling the programs for texts of this length, once")

    def complete(
        self, requests: Sequence[Request], config: GenerationConfig, stop: Sequence[str] = (),
        on_text: Callable[[int, str], bool] | None = None, seeds: Sequence[int] | None = None,
    ) -> list[list[Completion]]:  # fmt: skip
        """The texts of each request, `config.num_return_sequences` of them, best first.

        Args:
          stop: texts that end a generated text; they are cut off.
          on_text: called with the number of a request and new text as it comes, without beams and with one
            sequence each; it returns whether to stop this text.
          seeds: of each request; by default config.seed + its number.
        """
        if self.reader.masks is not None:
            return self._fill(requests, config, stop, on_text, seeds)
        streams, per_prompt = {}, config.num_return_sequences

        def stream_of(row):
            return TextStream(self.tokenizer, requests[row // per_prompt].before, stop)

        def on_tokens(row, tokens):
            stream = streams.setdefault(row, stream_of(row))
            text = "".join([stream.add(token) for token in tokens])
            wants_stop = bool(on_text and on_text(row // per_prompt, text))
            return stream.stopped or wants_stop

        streams_text = config.num_beams == 1 and (on_text or stop)
        with sharding.use_mesh(self.loaded.mesh):
            found = generate(
                self.loaded.model, self.loaded.params, [each.prompt for each in requests], config,
                eos_ids=self.reader.eos_ids, seeds=seeds, mesh=self.loaded.mesh,
                on_tokens=on_tokens if streams_text else None,
                log=self._log_before_text if on_text else self._log,
            )  # fmt: skip
        if on_text:
            for row, stream in streams.items():
                on_text(row // per_prompt, stream.finish())
        return [
            self._ranked(
                [self._completion(each, stream_of(n * per_prompt)) for each in rows], config
            )
            for n, rows in enumerate(found)
        ]

    def _fill(self, requests, config, stop, on_text, seeds):
        """The texts of a model that fills in masks: each has `max_new_tokens` tokens."""
        masks, ids, length = self.reader.masks, self.loaded.vocabulary, config.max_new_tokens
        rows = [
            np.array([*each.prompt.tokens, *[ids.mask] * length, *masks.suffix], np.int32)
            for each in requests
        ]
        search = FillConfig(
            order="left_to_right",
            num_return_sequences=config.num_return_sequences, temperature=config.temperature, seed=config.seed
        )  # fmt: skip
        with sharding.use_mesh(self.loaded.mesh):
            found = fill(
                self.loaded.model, self.loaded.params, rows, search, mask=ids.mask, seeds=seeds,
                candidates=ids.regular_token_ranges, is_next=masks.is_next, mesh=self.loaded.mesh,
                batch_size=config.batch_size,
            )  # fmt: skip
        results = []
        for number, (request, filled) in enumerate(zip(requests, found, strict=True)):
            start, texts = len(request.prompt.tokens), []
            for each in filled:
                tokens = each.tokens[start : start + length]
                generated = Generated(tokens, each.log_probs, "length", each.score)
                stream = TextStream(self.tokenizer, request.before, stop)
                texts.append(self._completion(generated, stream))
            results.append(self._ranked(texts, config))
            if on_text:
                on_text(number, results[-1][0].text)
        return results

    def _completion(self, generated, stream):
        for token in generated.tokens:
            stream.add(token)
        stream.finish()
        tokens = generated.tokens[: stream.num_tokens].tolist()
        log_probs = generated.log_probs[: stream.num_tokens].astype(np.float64)
        is_cut = len(tokens) < len(generated.tokens)
        score = float(log_probs.sum()) if is_cut else generated.score
        reason = "stop" if stream.stopped else generated.finish_reason
        log_probs = [round(each, 6) for each in log_probs.tolist()]
        return Completion(stream.text, tokens, log_probs, round(score, 6), reason)

    def _ranked(self, completions, config):
        """Best first; beams of a search remain in its order, as their scores count whole sequences."""
        if config.num_beams > 1:
            return completions
        return sorted(completions, key=lambda each: -each.score)
