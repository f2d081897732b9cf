"""The dialogue at the terminal: turns, the template, what is dropped, interrupts, the end."""

import builtins
import pathlib
import shutil
import signal

import pytest
import tiny_configs
from tiny_configs import WORDS

from data import tokenizer as tokenizers
from generation import programs
from tools import dialogue, generator
from tools import generate as program
from tools.dialogue import Dialogue

CHAT = """\
{% for message in messages %}{{ '[CLS]' + message['role'] + ' ' + message['content'] + '[EOS]' }}{% endfor %}\
{% if add_generation_prompt %}{{ '[CLS]assistant' }}{% endif %}"""
ROLES = ("user", "assistant", "system")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of one decoder: without a template, and with one; the roles are words of its vocabulary."""
    folder = tmp_path_factory.mktemp("dialogue")
    tiny_configs.untrained(folder / "plain", "decoder")
    shutil.copytree(folder / "plain", folder / "chat")
    words = tokenizers.of_words((*WORDS[:-1], *ROLES))
    files = {"chat_template.jinja": CHAT.encode()}
    tokenizers.Tokenizer(words.to_library(), {}, files).save(folder / "chat" / "tokenizer.json")
    return folder


@pytest.fixture
def terminal(monkeypatch):
    """Standard input and output are a terminal; the lines that are set here are read from it."""
    lines = []
    monkeypatch.setattr(program, "is_terminal", lambda: True)

    def read(prompt):
        if not lines:
            raise EOFError
        line = lines.pop(0)
        return line() if callable(line) else line

    monkeypatch.setattr(builtins, "input", read)
    return lines


def requests_of(monkeypatch):
    """The text of each request that is completed."""
    found, complete = [], generator.Generator.complete

    def record(self, requests, *args):
        found.append(self.tokenizer.decode(requests[0].prompt.tokens))
        return complete(self, requests, *args)

    monkeypatch.setattr(generator.Generator, "complete", record)
    return found


def talk(folder, name, *flags):
    program.main([f"--run={folder / name}", "--interactive", "--max_new_tokens=4", *flags])


def test_the_template_holds_the_turns_and_reset_forgets_them(folder, terminal, monkeypatch, capsys):
    found = requests_of(monkeypatch)
    terminal += ["the river", "  ", "/help", "a stone [EOS]", "/reset", "winter", "/exit", "never"]
    talk(folder, "chat", "--system=light")
    start = "[CLS] system light [EOS] [CLS] user"
    assert found[0] == f"{start} the river [EOS] [CLS] assistant"
    answer = capsys.readouterr().out.splitlines()[0]
    unknown = "[UNK] [UNK] [UNK]"  # the user's [EOS] is text
    assert found[1].startswith(f"{start} the river [EOS] [CLS] assistant {answer}".rstrip())
    assert found[1].endswith(f"[CLS] user a stone {unknown} [EOS] [CLS] assistant")
    assert found[2] == f"{start} winter [EOS] [CLS] assistant"
    assert len(found) == 3 and terminal == ["never"]


def test_a_model_without_a_template_continues_the_whole_text(folder, terminal, monkeypatch, capsys):
    found = requests_of(monkeypatch)
    terminal += ["the river", "a stone"]
    talk(folder, "plain")
    answer = capsys.readouterr().out.splitlines()[0].strip()
    assert found == ["the river", f"the river {answer} a stone"]
    with pytest.raises(ValueError, match="reads no system message; leave --system out"):
        talk(folder, "plain", "--system=light")


def test_programs_are_announced_once_before_an_answer_and_never_inside_it(
    folder, terminal, monkeypatch, caplog, capsys
):
    caplog.set_level("INFO", "triptych")
    monkeypatch.setattr(programs, "_SEEN", set())
    terminal += ["the river", "a stone", "/exit"]
    talk(folder, "plain")
    lines = [line for line in caplog.messages if "compil" in line]
    assert lines == ["compiling the programs for texts of this length, once"]


def test_a_finetuned_model_reads_each_line_alone(tmp_path, terminal, monkeypatch):
    run = tiny_configs.untrained(tmp_path / "run", "encoder_decoder")
    record = (run / "config.json").read_text()
    task = '"config": {"init_from": "x", "task": {"name": "seq2seq", "prompt": "the {source}"}, '
    (run / "config.json").write_text(record.replace('"config": {', task, 1))
    found = requests_of(monkeypatch)
    terminal += ["river", "stone"]
    talk(tmp_path, "run")
    assert found == ["the river [EOS]", "the stone [EOS]"]


def test_the_oldest_turns_are_dropped_once_said_and_the_last_must_fit(folder, caplog):
    one = Dialogue(generator.Generator(str(folder / "chat")), system="light", max_new_tokens=34)
    assert one.max_tokens == 30
    lengths = []
    with caplog.at_level("INFO", "triptych"):
        for _ in range(4):
            one.add("user", "the river of light")
            lengths.append(len(one.request().prompt.tokens))
            one.add("assistant", "a stone")
    assert max(lengths) <= 30 and one.turns[0]["role"] == "user"
    assert sum("the oldest turns are dropped" in line for line in caplog.messages) == 1
    text = one.generator.tokenizer.decode(one.request().prompt.tokens)
    assert text.startswith("[CLS] system light [EOS] [CLS] user")
    one.reset()
    one.add("user", " ".join(["the"] * 40))
    with pytest.raises(ValueError, match=r"this text has 4\d tokens, but 30 fit; shorten it"):
        one.request()
    assert one.turns == []
    with pytest.raises(ValueError, match=r"--max_new_tokens=64 leaves no place"):
        Dialogue(one.generator, max_new_tokens=64)


def test_a_source_of_an_encoder_decoder_may_fill_its_context(tmp_path):
    run = str(tiny_configs.untrained(tmp_path / "run", "encoder_decoder"))
    one = Dialogue(generator.Generator(run), max_new_tokens=34)
    one.add("user", " ".join(["the"] * 60))  # and the end token
    assert len(one.request().prompt.tokens) == 61
    one.reset()
    one.add("user", " ".join(["the"] * 64))
    with pytest.raises(ValueError, match="this text has 65 tokens, but 64 fit; shorten it"):
        one.request()
    Dialogue(one.generator, max_new_tokens=64)


def test_ctrl_c_stops_an_answer_and_two_at_the_prompt_end(folder, terminal, monkeypatch, capsys):
    complete, calls = generator.Generator.complete, []

    def interrupted(self, requests, config, stop, on_text):
        def show(row, text):
            calls.append(text)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGINT)
            return on_text(row, text)

        return complete(self, requests, config, stop, show)

    def at_the_prompt():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generator.Generator, "complete", interrupted)
    terminal += ["the river", at_the_prompt, at_the_prompt, "never"]
    before = signal.getsignal(signal.SIGINT)
    program.main([f"--run={folder / 'plain'}", "--interactive", "--max_new_tokens=60"])
    words = capsys.readouterr().out.split()
    assert len(words) < 40 and terminal == ["never"]
    assert signal.getsignal(signal.SIGINT) is before


def test_two_interrupts_in_an_answer_end_the_program(folder, terminal, monkeypatch):
    def complete(self, *args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(generator.Generator, "complete", complete)
    terminal += ["the river", "never"]
    talk(folder, "plain")
    assert terminal == ["never"]


def test_several_answers_are_refused(folder, terminal):
    with pytest.raises(ValueError, match="shows one answer; leave --num_return_sequences out"):
        talk(folder, "plain", "--temperature=1", "--num_return_sequences=2")


def test_the_help_names_the_commands():
    source = pathlib.Path(dialogue.__file__).read_text()
    assert all(f'"{word}"' in source and word in dialogue.HELP for word in ("/reset", "/exit"))
