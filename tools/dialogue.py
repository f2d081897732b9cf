"""A dialogue at the terminal: tools.generate --interactive.

With the chat template of a published model, as one text that a model without a template continues, and one
source after another with a model that was finetuned on pairs.
"""

import contextlib
import dataclasses
import logging
import re
import signal

from tools.generator import Generator, Request
from training.config import ConfigError

log = logging.getLogger("triptych")
HELP = "/reset forgets the dialogue, /exit or Ctrl-D ends, Ctrl-C stops an answer"


class Dialogue:
    """The turns so far, and the request for the next answer.

    Attributes:
      turns: [{'role', 'content'}], without the system message.
      max_tokens: tokens of a prompt at most; the oldest turns are left out of a longer one. The answer is
        in the same row, except that of an encoder-decoder.
    """

    def __init__(self, generator: Generator, system: str = "", max_new_tokens: int = 64):
        """Raises ConfigError for a system message that the model cannot read."""
        self.generator, self.turns = generator, []
        self._max_decoder_tokens = self.max_tokens = generator.context - max_new_tokens
        if generator.loaded.config.architecture == "encoder_decoder":
            self.max_tokens = generator.context
        self._has_template, self._said = generator.template is not None, False
        if system and not self._has_template:
            raise ConfigError(
                f"{generator.name} has no chat template, so it reads no system message; leave --system out"
            )
        self._system = [{"role": "system", "content": system}] if system else []
        if self.max_tokens < 1:
            raise ConfigError(
                f"--max_new_tokens={max_new_tokens} leaves no place for a prompt: {generator.name} reads "
                f"{generator.context} tokens; lower it"
            )

    @property
    def is_continued(self) -> bool:
        """Whether an answer depends on the turns before it: not for a model that was finetuned on pairs."""
        return self._has_template or self.generator.reader.continues

    def reset(self) -> None:
        """Forgets all turns."""
        self.turns, self._said = [], False

    def add(self, role: str, text: str) -> None:
        """Adds a turn."""
        if self.is_continued or role == "user":
            self.turns = [
                *(self.turns if self.is_continued else []),
                {"role": role, "content": text},
            ]

    def request(self) -> Request:
        """The request for the answer to the last turn. The oldest turns are dropped, two at a time with a
        template, until the rest fits. Raises ValueError if the last one alone is too long."""
        request, dropped, count = self._request(), 0, 2 if self._has_template else 1
        while self._is_too_long(request.prompt) and len(self.turns) > count:
            self.turns, dropped = self.turns[count:], dropped + count
            request = self._request()
        num_tokens = len(request.prompt.tokens)
        if num_tokens > self.max_tokens:
            self.turns.pop()
            raise ValueError(
                f"this text has {num_tokens:,} tokens, but {self.max_tokens:,} fit; shorten it"
            )
        if dropped and not self._said:
            log.info(
                "the oldest turns are dropped from here on: the model reads "
                f"{self.generator.context:,} tokens"
            )
            self._said = True
        return request

    def _is_too_long(self, prompt):
        in_decoder = len(prompt.decoder_tokens)
        return len(prompt.tokens) > self.max_tokens or in_decoder > self._max_decoder_tokens

    def _request(self):
        if self._has_template:
            return self.generator.chat_request([*self._system, *self.turns])
        [request] = self.generator.requests(["".join(turn["content"] for turn in self.turns)])
        return request


@contextlib.contextmanager
def counted_interrupts():
    """Yields a list with an entry for each Ctrl-C; the second one in a block raises KeyboardInterrupt."""
    before, found = signal.getsignal(signal.SIGINT), []

    def handler(number, frame):
        found.append(number)
        if len(found) > 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)


def run(generator: Generator, config, given) -> None:
    """Reads and answers until /exit, Ctrl-D, or two Ctrl-C where no answer is generated."""
    if config.num_return_sequences > 1:
        raise ConfigError("--interactive shows one answer; leave --num_return_sequences out")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history of input()
    dialogue = Dialogue(generator, given.system, config.max_new_tokens)
    kind = "chat template" if generator.template else "no chat template: it continues the text"
    log.info(
        f"{generator.describe()}; {kind if dialogue.is_continued else 'each line is a source'}"
    )
    log.info(HELP)
    turns, is_warned = 0, False
    while True:
        with counted_interrupts() as interrupts:
            try:
                text, is_warned = _input(interrupts), False
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                if is_warned:
                    return
                is_warned = True
                log.info("Ctrl-C again ends")
                continue
            if text.strip() == "/exit":
                return
            if text.strip() == "/reset":
                dialogue.reset()
                continue
            if re.fullmatch(r"/[a-z]+", text.strip()):
                log.info(f"{text.strip()} is no command; {HELP}")
                continue
            if not text.strip():
                continue
            own = dataclasses.replace(config, seed=config.seed + turns)
            try:
                _answer(dialogue, own, given.stop, text, interrupts)
            except KeyboardInterrupt:
                print()
                return
            turns += 1


def _input(interrupts):
    """A line from the terminal; the first Ctrl-C ends it."""
    interrupts.append(0)  # so that the next one raises
    try:
        return input("> ")
    finally:
        interrupts.clear()


def _answer(dialogue, config, stop, text, interrupts):
    """Generates and prints the answer to a text, until its end or Ctrl-C."""
    generator, is_chat = dialogue.generator, dialogue.generator.template is not None
    dialogue.add("user", text)
    try:
        request = dialogue.request()
        if generator.loaded.config.architecture != "decoder":
            [request] = generator.check_lengths([request], config)
    except ValueError as error:
        log.info(f"error: {error}")
        return

    def show(_, new):
        print(new, end="", flush=True)
        return bool(interrupts)

    if config.num_beams == config.num_return_sequences == 1:
        [[found]] = generator.complete([request], config, stop, show)
    else:
        found = generator.complete([request], config, stop)[0][0]
        print(found.text, end="")
    print(flush=True)
    dialogue.add("assistant", found.text if is_chat else found.text + "\n")
