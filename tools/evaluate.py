"""`python -m tools.evaluate --run=RUN --suite=SUITE --data=FILE...`: scores without finetuning.

Language models: perplexity, minimal pairs (BLiMP), multiple choice. Word vectors: similarity, analogy,
coverage. docs/evaluation.md describes the suites.
"""

from training import cli

TEXT = {  # the names of evaluation.SUITES
    "perplexity": "text files or sources: perplexity per token and word, bits per byte",
    "minimal_pairs": "sentence_good, sentence_bad (BLiMP): accuracy by phenomenon",
    "multiple_choice": "query, choices, gold; context_options, continuation, gold; or context, continuation",
}
WORDS = {
    "similarity": "word1, word2, score: Spearman",
    "analogy": "a b c d by section: 3CosAdd",
    "coverage": "known words of a corpus or of labeled files",
}
ALL = {**TEXT, **WORDS}
SCORINGS = ("auto", "causal", "prefix", "infill", "pll", "pll_within_word_l2r")
ROWS = ("minimal_pairs", "multiple_choice")
# (flag, the suites that it is for, keywords of argparse)
FLAGS = (
    ("--scoring", TEXT, {"default": "auto", "choices": SCORINGS,
                         "help": "how the model is asked; auto: as it was pretrained"}),
    ("--max_seq_len", TEXT, {"type": int, "default": 0, "metavar": "N",
                             "help": "positions that the model reads; 0: all that it can"}),
    ("--start_token", TEXT, {"default": "", "metavar": "TOKEN",
                             "help": "what a decoder reads before each text, such as '<|endoftext|>'"}),
    ("--limit", TEXT, {"type": int, "default": 0, "metavar": "N",
                       "help": "N items of each file, evenly spaced; 0: all"}),
    ("--batch_tokens", TEXT, {"type": int, "default": 0, "metavar": "N",
                              "help": "positions per batch and device; 0: 2048 on a CPU, else 32768"}),
    ("--chart", ALL, {"default": "", "metavar": "FILE", "help": "a bar chart, .png, .svg or .pdf; default: "
                       "the name of --output with .png"}),
    ("--field", ROWS, {"nargs": "+", "default": (), "metavar": "ROLE=NAME",
                       "help": "other names of fields, such as good=acceptable"}),
    ("--delimiter", ("multiple_choice",), {"default": " ", "help": "between context and continuation; "
                                           "\\n is a line end"}),
    ("--stride", ("perplexity",), {"type": int, "default": 0, "metavar": "N",
                                   "help": "tokens that each window scores; 0: half a window"}),
    ("--separator", ("perplexity",), {"default": "blank_line", "choices": ("blank_line", "line", "file"),
                                      "help": "of the documents in text files"}),
    ("--text_field", ("perplexity",), {"default": "text", "help": "of JSON lines and TFDS"}),
    ("--text_column", ("coverage",), {"nargs": "+", "default": ("text",),
                                      "help": "columns of files:PATTERN"}),
    ("--max_vectors", WORDS, {"type": int, "default": 0, "metavar": "N",
                              "help": "only the first words of --vectors; 0: all"}),
)  # fmt: skip
EXAMPLES = """\
python -m tools.evaluate --run=runs/dec --suite=perplexity --data=test.txt.xz --stride=256
python -m tools.evaluate --run=runs/enc --suite=minimal_pairs --data=blimp.jsonl.xz --output=blimp.json
python -m tools.evaluate --run=hf/SmolLM2 --suite=multiple_choice --data piqa.jsonl copa.jsonl
python -m tools.evaluate --run=runs/skip_gram --suite=similarity --data ws-353.tsv simlex-999.tsv
python -m tools.evaluate --vectors=glove.txt.gz --suite=analogy --data=questions-words.txt
python -m tools.evaluate --vectors=glove.txt.gz --suite=coverage --data='text:/path/*.txt'"""


def main(argv: list[str]) -> None:
    """Prints a table, and writes it with --output."""
    given = parse(argv)
    if given.suite in WORDS:
        from tools import word_suites

        word_suites.run(given)
        return
    from tools import scoring

    scoring.run(given)


def parse(argv: list[str]) -> cli.argparse.Namespace:
    """The flags, checked."""
    parser = cli.flags_parser(__doc__, (), EXAMPLES)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument(
        "--run",
        default="",
        metavar="DIR[@STEP]",
        help="a run directory or a Hugging Face directory",
    )
    subject.add_argument(
        "--vectors", default="", metavar="FILE", help=".txt .vec .bin, plain or compressed"
    )
    helps = "; ".join(f"{name}: {what}" for name, what in ALL.items())
    parser.add_argument("--suite", required=True, choices=ALL, help=helps)
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE|SOURCE",
        help="files or patterns; perplexity and coverage: also text:GLOB, jsonl:GLOB, tfds:NAME, "
        "python_docs, and files:PATTERN (coverage)",
    )  # fmt: skip
    parser.add_argument("--output", "--out", default="", metavar="FILE", help="write the scores as JSON too; "
                        "a killed command resumes from FILE.partial")  # fmt: skip
    for flag, names, keywords in FLAGS:
        of = "" if names in (TEXT, ALL) else f"{', '.join(names)}: "
        parser.add_argument(flag, **keywords | {"help": of + keywords["help"]})
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")
    given = parser.parse_args(argv)
    for flag, names, keywords in FLAGS:
        value = getattr(given, flag.removeprefix("--"))
        if given.suite not in names and value != keywords["default"]:
            parser.error(f"{flag} is for {', '.join(names)}; omit it with --suite={given.suite}")
        if keywords.get("type") is int and value < 0:
            parser.error(f"{flag}={value} is negative; give 0 or more")
    if given.run and given.max_vectors:
        parser.error("--max_vectors limits the words of --vectors; omit it with --run")
    if given.vectors and given.suite in TEXT:
        parser.error(f"--suite={given.suite} needs a language model; give --run")
    return given


if __name__ == "__main__":
    cli.main(main)
