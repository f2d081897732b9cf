"""`python -m tools.convert from_hf|to_hf`: a Hugging Face directory as a run, and a run as one.

python -m tools.convert from_hf HF_DIR RUN_DIR
python -m tools.convert to_hf RUN_DIR[@STEP] HF_DIR [--dtype=bfloat16] [--architecture=BertModel]
"""

from huggingface import convert
from training import cli


def main(argv: list[str]) -> None:
    """Command line of this file."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", choices=("from_hf", "to_hf"))
    parser.add_argument("source", metavar="HF_DIR|RUN_DIR[@STEP]", help="what is read")
    parser.add_argument("target", metavar="RUN_DIR|HF_DIR", help="what is made")
    parser.add_argument(
        "--dtype", default="", help="to_hf: of the tensors; default: as they came, else float32"
    )
    parser.add_argument(
        "--architecture", default="", help="to_hf: class of transformers; default: by the heads"
    )
    parser.add_argument("--debug", action="store_true", help="traceback instead of one line")
    given = parser.parse_args(argv)
    if given.command == "from_hf":
        if given.dtype or given.architecture:
            parser.error("--dtype and --architecture belong to to_hf; leave them out")
        print(convert.from_hf(given.source, given.target))
    else:
        print(convert.to_hf(given.source, given.target, given.dtype, given.architecture))


if __name__ == "__main__":
    cli.main(main)
