"""`python -m tools.fill_mask --run=RUN --text='the [MASK] of the model'`: fills the masks of texts.

For encoders (each [MASK] is a token), decoders pretrained with mntp, hybrid or fill_in_the_middle, and
encoder-decoders (spans: <extra_id_0> or [MASK]). At a terminal the best texts; otherwise JSON lines.
"""

import sys

from training import cli

FLAGS = (
    ("--run", {"required": True, "metavar": "DIR[@STEP]",
               "help": "a run directory of train.py, or a Hugging Face directory"}),
    ("--text", {"action": "append", "default": [],
                "help": "a text with masks; may be repeated; default: lines of standard input"}),
    ("--file", {"action": "append", "default": [], "metavar": "PATTERN",
                "help": "texts: lines of .txt; a column of .jsonl, .tsv, .csv"}),
    ("--column", {"default": "text", "metavar": "NAME", "help": "column of the texts (default: text)"}),
    ("--n_best", {"type": int, "default": 5, "metavar": "N",
                  "help": "texts, and tokens for each mask, that are shown (default: 5)"}),
    ("--order", {"default": "confidence", "choices": ("joint", "left_to_right", "confidence"),
                 "help": "several masks: all at once, or one by one, each given the earlier "
                         "(default: confidence, the most certain first)"}),
    ("--num_steps", {"type": int, "default": 0, "metavar": "N",
                     "help": "fill the masks of a text in N steps (default: one by one)"}),
    ("--append_masks", {"type": int, "default": 0, "metavar": "N",
                        "help": "adds N masks to the end of each text, which they continue"}),
    ("--temperature", {"type": float, "default": 0.0,
                       "help": "N samples instead of the N best (default: 0)"}),
    ("--seed", {"type": int, "default": 0, "help": "of the samples (default: 0)"}),
    ("--max_new_tokens", {"type": int, "default": 0, "metavar": "N",
                          "help": "of a model that generates (default: 32 for each mask)"}),
    ("--batch_size", {"type": int, "default": 32, "metavar": "N",
                      "help": "texts that are filled together, or sequences that are generated together "
                              "(default: 32)"}),
    ("--output", {"default": "", "metavar": "FILE", "help": "JSON lines; default: standard output"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
EXAMPLES = """\
python -m tools.fill_mask --run=runs/enc --text='the [MASK] of the model'
python -m tools.fill_mask --run=runs/enc --text='Once upon a time' --append_masks=12 --temperature=0.8
python -m tools.fill_mask --run=runs/t5 --text='Thank you <extra_id_0> me to your party <extra_id_1> week.'
python -m tools.fill_mask --run=HF_DIR --file=texts.jsonl --column=sentence --output=filled.jsonl

--config.mesh.* places the model on several devices."""


def main(argv):
    """Fills the texts that the command line names."""
    parser = cli.flags_parser(__doc__, FLAGS, EXAMPLES)
    assignments, rest = cli.split_assignments(argv)
    given = parser.parse_args(rest)
    if given.text and given.file:
        parser.error("--text and --file exclude each other; give one of them")
    for name, least in (("n_best", 1), ("batch_size", 1), ("num_steps", 0), ("append_masks", 0),
                        ("max_new_tokens", 0), ("temperature", 0), ("seed", 0)):  # fmt: skip
        if not least <= getattr(given, name) < 2**31:
            parser.error(
                f"--{name}={getattr(given, name)} is out of range; expected at least {least}"
            )
    from tools import fill_mask

    fill_mask.run(given, assignments)


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)

import logging

from data.files import expand
from generation import FillConfig
from tools import output
from tools.filler import Filler
from tools.texts import Item, items_of, stdin_items
from training import config as config_lib
from training.config import ConfigError
from training.schema import MeshConfig

log = logging.getLogger("triptych")


def run(given, assignments):
    """Fills what the parsed flags name, and writes it."""
    for key, _ in assignments:
        if not key.startswith("mesh."):
            raise ConfigError(f"--config.{key} is not a choice here; expected --config.mesh.*")
    mesh = config_lib.override({"mesh": {}}, assignments)["mesh"]
    filler = Filler(given.run, config_lib.resolve(MeshConfig, mesh, "config.mesh"))
    config = FillConfig(given.order, given.num_steps, given.n_best, given.temperature, given.seed)
    files = [path for pattern in given.file for path in expand(pattern, log.info)]
    output.check_new(given.output, files)
    if given.text:
        items = [Item(f"text {number}", text) for number, text in enumerate(given.text, 1)]
    elif files:
        items = [item for path in files for item in items_of(path, given.column)]
    else:
        items = stdin_items(given.column)
    texts = [filler.parse(item.place, item.text, given.append_masks) for item in items]
    rows = [filler.row(text) for text in texts]
    log.info(filler.describe())
    is_shown = sys.stdout.isatty() and not given.output
    writer, size = output.Writer(given.output), given.batch_size
    try:
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            seeds = [given.seed + start + n for n in range(len(texts[part]))]
            records = filler.fill(
                texts[part], rows[part], config, seeds, given.max_new_tokens, size
            )
            if is_shown:
                show(records)
            else:
                writer.write({"id": start + n} | each for n, each in enumerate(records))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {writer.count:,} texts are written") from None
    finally:
        writer.close()
    if given.output:
        log.info(f"{writer.count:,} texts in {given.output}")


def show(records: list[dict]) -> None:
    """Prints the best texts, with their probabilities and what fills each mask."""
    for record in records:
        print(record["text"])
        for each in record["fills"]:
            print(f"  {each['probability']:.4f}  {each['text']}")
        for number, likeliest in enumerate(record.get("masks", ()) if several(record) else (), 1):
            words = "  ".join(f"{each['token']} {each['probability']:.4f}" for each in likeliest)
            print(f"  mask {number}: {words}")
        sys.stdout.flush()


def several(record) -> bool:
    """Whether a text has more than one mask: with one, its candidates already are the texts."""
    return len(record.get("masks", ())) > 1
