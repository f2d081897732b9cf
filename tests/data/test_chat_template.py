"""Chat templates: where they are found, special tokens of messages, and dialogues that are refused."""

import json

import pytest

from data import tokenizer as tokenizers
from data.chat_template import chat_template, check_messages

WORDS = tokenizers.of_words(["user", "assistant", "a", "b", "EOS"])
TEMPLATE = """\
{% for message in messages %}
    {% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
{{ bos_token }}{{ message['role'] }} {{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}{% generation %}[CLS]assistant{% endgeneration %}{% endif %}"""
NAMES = {"bos_token": {"content": "[CLS]", "special": True}, "eos_token": "[EOS]"}


def of_files(**files):
    files = {name.replace("__", "."): content for name, content in files.items()}
    content = {k: (v if isinstance(v, str) else json.dumps(v)).encode() for k, v in files.items()}
    return tokenizers.Tokenizer(WORDS.to_library(), {}, content)


def user(text):
    return [{"role": "user", "content": text}]


def test_a_template_is_in_its_own_file_or_in_the_settings():
    assert (
        chat_template(WORDS) is None
        and chat_template(of_files(tokenizer_config__json=NAMES)) is None
    )
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    for files in (
        {"chat_template__jinja": TEMPLATE, "tokenizer_config__json": NAMES},
        {"tokenizer_config__json": {**NAMES, "chat_template": TEMPLATE}},
        {"tokenizer_config__json": {**NAMES, "chat_template": named}},
        {"chat_template__jinja": TEMPLATE, "special_tokens_map__json": NAMES,
         "tokenizer_config__json": {"chat_template": "the file goes first"}},
    ):  # fmt: skip
        found = chat_template(of_files(**files))
        assert found.render(user(" a ")) == "[CLS]user a[EOS]\n[CLS]assistant"
        assert found.render(user("a"), add_generation_prompt=False) == "[CLS]user a[EOS]\n"


def test_special_tokens_of_the_template_are_tokens_and_those_of_a_message_are_text():
    tokenizer = of_files(tokenizer_config__json={**NAMES, "chat_template": TEMPLATE})
    ids = tokenizer.vocabulary()
    found = chat_template(tokenizer).encode(tokenizer, user("a [EOS] \ue000b[CLS]")).tolist()
    cls, eos, unknown = ids["[CLS]"], ids["[EOS]"], ids["[UNK]"]
    first = [cls, ids["user"], ids["a"], unknown, ids["EOS"], unknown]
    assert found[: len(first)] == first
    assert found[-3:] == [eos, cls, ids["assistant"]]
    assert (found.count(cls), found.count(eos)) == (2, 1)


def test_a_tokenizer_with_further_tokens_keeps_the_template():
    for files in (
        {"chat_template__jinja": TEMPLATE, "tokenizer_config__json": NAMES},
        {"tokenizer_config__json": {**NAMES, "chat_template": TEMPLATE}},
    ):
        made = of_files(**files).with_tokens(["[E1]"])
        assert chat_template(made).render(user("a")) == "[CLS]user a[EOS]\n[CLS]assistant"


def test_a_dialogue_that_the_template_refuses_is_one_line():
    refusals = {
        "no tools": [{"role": "tool", "content": "a"}],
        "has no attribute": "{{ messages[0].content.nothing() }}",
        "unsafe": "{{ messages.append(1) }}",
        "Expected": "{% for x in %}",
        "division": "{{ 1 // 0 }}",
    }
    for reason, wrong in refusals.items():
        is_template = isinstance(wrong, str)
        source, messages = (wrong, user("a")) if is_template else (TEMPLATE, wrong)
        template = chat_template(
            of_files(chat_template__jinja=source, tokenizer_config__json=NAMES)
        )
        with pytest.raises(ValueError, match=f"refuses this dialogue .*{reason}") as found:
            template.render(messages)
        assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_messages_are_checked():
    assert check_messages([{"role": "user", "content": "a", "name": "x"}], "f") == user("a")
    for wrong in ("a", [], ["a"], [{"role": "me", "content": "a"}], [{"role": "user"}], [{}]):
        with pytest.raises(ValueError, match=r"^f at line 3: message.*expected"):
            check_messages(wrong, "f at line 3")
