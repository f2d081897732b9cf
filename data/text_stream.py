"""Text of tokens as they are generated: whole characters, the right blanks, and stop strings.

Between generation/, which has tokens, and tools/ and tasks/, which show text.
"""

from collections.abc import Sequence

from data.tokenizer import Tokenizer

_CONTEXT = 16  # tokens before the first one that decide about the blank before it
_INCOMPLETE = "\ufffd"  # how a part of a UTF-8 character is decoded


class TextStream:
    """The text of one generated sequence. Special tokens have no text.

    Attributes:
      text: of the tokens so far without an incomplete character, up to a stop string.
      num_tokens: tokens so far; those after the end of a stop string are not counted.
      stopped: whether the text has a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), stop: Sequence[str] = ()):
        """before: the tokens of a text that the sequence continues. stop: texts that end it."""
        self.text, self.num_tokens, self.stopped = "", 0, False
        self._decode = tokenizer.decode
        self._ids = [int(token) for token in before[-_CONTEXT:]]
        # Tokens from `start` to `shown` have a text that is known; decoding starts there, as decoders
        # treat the first token of a text differently.
        self._start, self._shown = 0, len(self._ids)
        self._stop, self._given = tuple(stop), 0

    def add(self, token: int) -> str:
        """The text that is certain after another token; '' after a stop string."""
        if self.stopped:
            return ""
        self.num_tokens += 1
        self._ids.append(int(token))
        known = self._text(self._ids[self._start : self._shown])
        text = self._text(self._ids[self._start :])
        if text.endswith(_INCOMPLETE):
            return ""
        return self._append(known, text)

    def finish(self) -> str:
        """The rest of the text, when no token follows."""
        rest = ""
        if not self.stopped:
            known = self._text(self._ids[self._start : self._shown])
            rest = self._append(known, self._text(self._ids[self._start :]))
        return rest + self._certain(len(self.text))

    def _append(self, known, text):
        new = text[len(known) :]
        if new:
            self._start, self._shown = self._shown, len(self._ids)
        self.text += new
        ends = [place for each in self._stop if (place := self.text.find(each)) >= 0]
        if ends:
            self.text, self.stopped = self.text[: min(ends)], True
            return self._certain(len(self.text))
        return self._certain(len(self.text) - self._length_of_a_start())

    def _length_of_a_start(self):
        """Characters at the end of the text that may be the start of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self.text)), 0, -1):
            end = self.text[-length:]
            if any(each.startswith(end) for each in self._stop):
                return length
        return 0

    def _certain(self, end):
        new = self.text[self._given : end]
        self._given = max(self._given, end)
        return new

    def _text(self, ids):
        return self._decode(ids, skip_specials=True)
