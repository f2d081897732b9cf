"""Chat templates: the messages of a dialogue -> the tokens that a model was finetuned on.

A template is a Jinja program that a published tokenizer comes with. Its special tokens become tokens;
text of a message never does. Between tools/ and data/tokenizer.py.
"""

import datetime
import json
import re
from dataclasses import dataclass

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np

from data.pretrained_tokenizer import SPECIAL_TOKENS_FILE, token_text
from data.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
_PRIVATE = range(0xE000, 0xF8FF)  # code points without a meaning in Unicode
# What a program of a template may raise besides an error of Jinja.
_FAILURES = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
             RecursionError)  # fmt: skip


@dataclass(frozen=True)
class ChatTemplate:
    """source: the Jinja program. tokens: its variables, {'bos_token': '<s>', ...}."""

    source: str
    tokens: dict[str, str]

    def render(self, messages: list[dict], add_generation_prompt: bool = True) -> str:
        """The text of a dialogue, as `apply_chat_template` of transformers renders it.

        messages: [{'role': 'user', 'content': text}, ...]. add_generation_prompt: it ends with the start of
        the assistant's answer. Raises ValueError, in one line, for messages that the template refuses."""
        try:
            return _environment().from_string(self.source).render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None,
                documents=None, **self.tokens,
            )  # fmt: skip
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"the model's chat template refuses this dialogue ({reason}): change the roles or the order "
                "of its messages"
            ) from error

    def encode(
        self, tokenizer: Tokenizer, messages: list[dict], add_generation_prompt: bool = True
    ) -> np.ndarray:
        """The tokens int32[n] of a dialogue. Arguments and errors as of `render`."""
        texts = "".join(text for message in messages for text in message.values())
        first, last = (chr(c) for c in [c for c in _PRIVATE if chr(c) not in texts][:2])
        names = "|".join(map(re.escape, sorted(tokenizer.special_names, key=len, reverse=True)))
        names = re.compile(names or "(?!)")
        marked = [
            {key: names.sub(rf"{first}\g<0>{last}", text) for key, text in message.items()}
            for message in messages
        ]
        text, markers, parts = self.render(marked, add_generation_prompt), [], [""]
        for each in re.split(f"({first}(?:{names.pattern}){last}|{names.pattern})", text):
            if names.fullmatch(each):  # of the template
                markers.append(each)
                parts.append("")
            else:
                parts[-1] += each.replace(first, "").replace(last, "")
        return tokenizer.encode_marked(parts, markers)


def chat_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of a published tokenizer, from the files that it came with; None without one."""
    files = tokenizer.files
    settings = _json(files, SPECIAL_TOKENS_FILE) | _json(files, "tokenizer_config.json")
    source = settings.get("chat_template")
    if isinstance(source, list):  # several of them by name
        source = {each["name"]: each["template"] for each in source}.get("default")
    if "chat_template.jinja" in files:
        source = files["chat_template.jinja"].decode()
    if not isinstance(source, str):
        return None
    tokens = {k: token_text(v) for k, v in settings.items() if k.endswith("_token")}
    return ChatTemplate(source, {k: v for k, v in tokens.items() if v})


def check_messages(messages, place: str) -> list[dict]:
    """The messages of a dialogue [{'role', 'content'}]. Raises ValueError that names `place`."""
    example = '[{"role": "user", "content": "Hello"}]'
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{place}: messages are no list of objects; expected {example}")
    for number, message in enumerate(messages, 1):
        found = message if isinstance(message, dict) else {}
        if found.get("role") not in ROLES or not isinstance(found.get("content"), str):
            raise ValueError(
                f"{place}: message {number} is {str(message)[:80]!r}; expected a role ({', '.join(ROLES)}) "
                f"and a content that is not empty, as in {example}"
            )
    return [{key: each[key] for key in ("role", "content")} for each in messages]


def _json(files, name) -> dict:
    return json.loads(files.get(name, b"{}"))


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks what is trained: here its text alone."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _environment():
    """The environment of transformers: a sandbox, since a template is a program of a stranger."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Without Jinja's escapes of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message):
    raise jinja2.TemplateError(message)
