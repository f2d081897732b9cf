"""`python -m tools.generate --run=RUN --prompt='...'`: the text that a model generates after a prompt.

For decoders and encoder-decoders: completions, dialogues (--interactive, --chat), and the targets of a
finetuned run. One prompt is shown as its tokens come; many prompts become JSON lines, in their order.
"""

import dataclasses
import functools
import sys

from training import cli

FLAGS = (
    ("--run", {"required": True, "metavar": "DIR[@STEP]",
               "help": "a run directory of train.py or finetune.py, or a Hugging Face directory"}),
    ("--prompt", {"action": "append", "default": [], "metavar": "TEXT",
                  "help": "a prompt; may be repeated; default: each line of standard input is one"}),
    ("--file", {"action": "append", "default": [], "metavar": "PATTERN",
                "help": "prompts: lines of .txt; a column of .jsonl, .tsv, .csv; messages in .jsonl"}),
    ("--column", {"default": "", "metavar": "NAME",
                  "help": "column of the prompts; default: prompt, or the column of the run's task"}),
    ("--interactive", {"action": "store_true",
                       "help": "a dialogue at the prompt; Ctrl-C stops an answer, Ctrl-D ends"}),
    ("--chat", {"action": "store_true",
                "help": "each prompt is a message to the assistant, in the model's chat template"}),
    ("--system", {"default": "", "metavar": "TEXT", "help": "system message before each dialogue"}),
    ("--stop", {"action": "append", "default": [], "metavar": "TEXT",
                "help": "a text that ends the output and is cut off; \\n and \\t are a line end and a tab"}),
    ("--output", {"default": "", "metavar": "FILE.jsonl", "help": "JSON lines with text, tokens and scores"}),
    ("--resume", {"action": "store_true", "help": "continue FILE.jsonl after the rows that it has"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
EXAMPLES = """\
python -m tools.generate --run=runs/dec --prompt='The river' --temperature=0.8 --top_p=0.95
python -m tools.generate --run=HF_DIR --interactive --system='Answer in one sentence.'
python -m tools.generate --run=runs/e2e --file=test.jsonl --output=out.jsonl --num_beams=4
cut -f 2 texts.tsv | python -m tools.generate --run=runs/de --batch_size=64 > out.jsonl

--config.mesh.* places the model on several devices."""


def main(argv, keep_programs=False):
    """Generates what the command line asks for. keep_programs: compiled ones are kept for the next time."""
    parser = cli.flags_parser(__doc__, FLAGS, EXAMPLES)
    from generation import GenerationConfig

    group, names = parser.add_argument_group("options of generation"), []
    for field in dataclasses.fields(GenerationConfig):
        text = f"{field.metadata['help']} (default: {field.default})".replace("%", "%%")
        group.add_argument(f"--{field.name}", metavar="VALUE", help=text)
        names.append(field.name)
    assignments, rest = cli.split_assignments(argv)
    given = parser.parse_args(rest)
    options = {name: value for name in names if (value := getattr(given, name)) is not None}
    check_flags(parser, given)
    if keep_programs:
        cli.enable_compilation_cache()
    from tools import generate

    generate.run(given, options, assignments)


def is_terminal() -> bool:
    """Whether a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def check_flags(parser, given):
    """Ends with one line for flags that exclude each other."""
    given.stop = [text.replace("\\n", "\n").replace("\\t", "\t") for text in given.stop]
    if given.prompt and given.file:
        parser.error("--prompt and --file exclude each other; give one of them")
    if given.interactive and (given.prompt or given.file or given.output):
        parser.error(
            "--interactive reads and writes at the terminal; leave --prompt, --file, --output out"
        )
    if given.interactive and not is_terminal():
        parser.error(
            "--interactive needs a terminal; for pipes leave it out (each line of standard input is a prompt)"
        )
    if "" in given.stop:
        parser.error("--stop is empty; name a text that ends the output, such as --stop='\\n'")
    if given.resume and not given.output:
        parser.error("--resume continues a file; add --output=FILE.jsonl")
    if given.column and not given.file:
        parser.error("--column is of files; add --file")
    if given.system and not (given.interactive or given.chat or given.file):
        parser.error("--system belongs to a dialogue; add --interactive or --chat")


if __name__ == "__main__":
    cli.main(functools.partial(main, keep_programs=True), console=sys.stderr)

import json
import logging
import os
from collections.abc import Iterator

from data.files import digest, expand
from tasks import predictions
from tools import output
from tools.generator import Completion, Generator
from tools.predict import Progress
from tools.texts import Item, items_of, stdin_items
from training import config as config_lib
from training import paths
from training.config import ConfigError
from training.schema import MeshConfig

log = logging.getLogger("triptych")
WINDOW = 16  # batches whose prompts are sorted by length


def run(given, options, assignments):
    """Generates what the parsed flags name; options: {field of GenerationConfig: text}."""
    for key, _ in assignments:
        if not key.startswith("mesh."):
            raise ConfigError(f"--config.{key} is not a choice here; expected --config.mesh.*")
    mesh = config_lib.override({"mesh": {}}, assignments)["mesh"]
    if given.resume and not paths.remote(given.output):  # an object store cannot append
        output.check_path("--output", given.output)
    else:
        remedy = "remove it" if given.resume else "add --resume to continue it"
        output.check_new(given.output, remedy=remedy)
    generator = Generator(given.run, config_lib.resolve(MeshConfig, mesh, "config.mesh"))
    files = [path for pattern in given.file for path in expand(pattern, log.info)]
    items = [item for path in files for item in items_of(path, given.column or generator.column)]
    if given.interactive:
        from tools import dialogue

        dialogue.run(generator, generator.config(options), given)
        return
    if given.prompt:
        items = [Item(f"prompt {n}", text) for n, text in enumerate(given.prompt, 1)]
    elif not files:
        items = stdin_items(given.column or generator.column)
    if given.chat or given.system:
        items = [as_dialogue(item, given.system) for item in items]
    config = generator.config(options)
    settings = settings_digest(generator, config, given.stop)
    done = rows_before(given.output, items, config.num_return_sequences, settings)
    log.info(generator.describe())
    requests = generator.check_lengths(
        requests_of(generator, items), config, [item.place for item in items]
    )
    is_shown = len(items) == 1 or (sys.stdout.isatty() and not given.output)
    writer = output.Writer(given.output, count=done)
    generate_all(generator, items, requests, config, given, writer, is_shown, settings)


# ---- Prompts -------------------------------------------------------------------------------------


def as_dialogue(item: Item, system: str) -> Item:
    """The item as a dialogue, after a system message if it has none."""
    messages = item.messages or ({"role": "user", "content": item.text},)
    if system and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": system}, *messages)
    return dataclasses.replace(item, messages=messages)


def requests_of(generator, items) -> list:
    """The Request of each item; a ValueError names its place."""
    if any(item.messages for item in items) and generator.template is None:
        generator.chat_request([])  # raises
    texts = [item.text for item in items if not item.messages]
    empty = next((item for item in items if not item.messages and not item.text.strip()), None)
    try:
        plain = iter(generator.requests(texts))
    except ValueError as error:
        raise ValueError(f"{empty.place}: {error}" if empty else str(error)) from error
    found = []
    for item in items:
        try:
            found.append(generator.chat_request(item.messages) if item.messages else next(plain))
        except ValueError as error:
            raise ValueError(f"{item.place}: {error}") from error
    return found


# ---- Output --------------------------------------------------------------------------------------


def settings_digest(generator, config, stop) -> str:
    """Twelve characters, equal for commands whose rows may share a file: commands with the same run
    and the same options."""
    options = dataclasses.asdict(config)
    del options["batch_size"]
    return digest(generator.name, options, list(stop))[:12]


def rows_before(path: str, items, per_prompt: int, settings: str) -> int:
    """The number of prompts whose rows a file already has; an incomplete last line or group is cut off.
    Raises ConfigError, and leaves the file as it is, for a line of another program, of another prompt, of
    another run or of other options."""
    if not path or not os.path.exists(path):
        return 0
    with open(path, "rb") as stream:
        lines = list(stream)
    for number, line in enumerate(lines):
        done = number // per_prompt
        record = items[done].record if done < len(items) else None
        reason = difference(line, record and {"id": done, **record}, settings)
        if reason:
            raise ConfigError(f"--output={path} at line {number + 1} is {reason}name another file")
    done = sum(line.endswith(b"\n") for line in lines) // per_prompt
    os.truncate(path, sum(map(len, lines[: done * per_prompt])))
    log.info(f"{path} has {done:,} of {len(items):,} prompts")
    return done


def difference(line: bytes, start: dict | None, settings: str) -> str:
    """Why a line is no row, or an incomplete row, that begins with the items of `start` (None: there is
    no such prompt); '' if it is one."""
    begin = "".join(predictions.lines([start or {}], "jsonl")).encode()[: -len(b"}\n")]
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
        if start and not line.endswith(b"\n") and begin.startswith(line[: len(begin)]):
            return ""
    if not isinstance(found, dict):
        return "no row of this program; "
    if not start or not start.items() <= found.items():
        return "of another prompt; "
    if found.get("settings") != settings:
        return "of another run or of other options; repeat the command that wrote it, or "
    return ""


def rows_of(
    item: Item, number: int, completions: list[Completion], seed: int, settings: str
) -> Iterator[dict]:
    """The rows of a prompt: one per text, best first."""
    for place, each in enumerate(completions):
        sequence = {"sequence": place} if len(completions) > 1 else {}
        yield {"id": number, **item.record, **sequence, **dataclasses.asdict(each), "seed": seed,
               "settings": settings}  # fmt: skip


def generate_all(generator, items, requests, config, given, writer, is_shown, settings):
    """Generates the texts of all items from `writer.count` on, and writes them in their order."""
    first, progress, waiting = writer.count, Progress([]), {}
    progress.total = len(items) - first
    progress.start_part(progress.total, progress.total)
    size, is_streamed = (
        max(1, config.batch_size // config.rows_per_prompt),
        is_shown and config.num_beams == config.num_return_sequences == 1,
    )
    try:
        for batch in batches(requests, first, 1 if is_shown else size, size * WINDOW):
            if is_shown and len(items) > 1:
                print(f"---- {items[batch[0]].place}: {items[batch[0]].text}")
            found = generator.complete(
                [requests[n] for n in batch], config, given.stop, show if is_streamed else None,
                [config.seed + n for n in batch],
            )  # fmt: skip
            if is_shown:
                show_end(found[0], is_streamed)
            for number, completions in zip(batch, found, strict=True):
                waiting[number] = list(
                    rows_of(items[number], number, completions, config.seed + number, settings)
                )
            while writer.count in waiting:
                rows = waiting.pop(writer.count)
                writer.write(rows if given.output or not is_shown else (), num_items=1)
            if not is_shown:
                progress(len(batch))
    except KeyboardInterrupt:
        how = "; --resume continues with the next one" if given.output else ""
        raise KeyboardInterrupt(
            f"interrupted; {writer.count:,} of {len(items):,} prompts are written{how}"
            if given.output or not is_shown else "interrupted"
        ) from None  # fmt: skip
    finally:
        progress.close()
        writer.close()
    if given.output:
        log.info(f"{writer.count:,} prompts in {given.output}{progress.rate()}")


def batches(requests, first: int, size: int, window: int) -> Iterator[list[int]]:
    """Numbers of the requests from `first` on, in batches of similar length; `window` of them at a time."""
    for start in range(first, len(requests), window):
        numbers = range(start, min(start + window, len(requests)))
        if size > 1:
            numbers = sorted(numbers, key=lambda n: len(requests[n].prompt.tokens))
        yield from (list(numbers[at : at + size]) for at in range(0, len(numbers), size))


def show(number: int, text: str) -> bool:
    """Prints new text of a prompt at once."""
    print(text, end="", flush=True)
    return False


def show_end(completions, is_streamed):
    """Ends a text that was shown, or prints texts that come whole."""
    if is_streamed:
        print(flush=True)
        return
    for number, each in enumerate(completions):
        print(f"[{number}] {each.score:.3f}  {each.text}", flush=True)
