"""`python -m tools.convert COMMAND SOURCE TARGET`: runs to and from Hugging Face and word vectors.

python -m tools.convert from_hf HF_DIR RUN_DIR
python -m tools.convert to_hf RUN_DIR[@STEP] HF_DIR [--dtype=bfloat16] [--architecture=BertModel]
python -m tools.convert merge RUN_DIR[@STEP] RUN_DIR            # an adapter into the weights
python -m tools.convert to_peft RUN_DIR[@STEP] PEFT_DIR [--base=HF_DIR]
python -m tools.convert from_peft PEFT_DIR RUN_DIR [--base=HF_DIR]
python -m tools.convert from_vectors glove.txt RUN_DIR [--max_vectors=100000] [--seed=0]
python -m tools.convert to_vectors RUN_DIR[@STEP] vectors.vec.gz [--no_header]
"""

import argparse

from training import cli

FLAGS = {  # of each command
    "from_hf": {},
    "to_hf": {
        "--dtype": {"help": "of the tensors; default: as imported, else float32"},
        "--architecture": {"help": "class of transformers; default: by the heads"},
    },
    "merge": {},
    "to_peft": {
        "--base": {"help": "directory of the model that is adapted; default: PEFT_DIR/base"}
    },
    "from_peft": {"--base": {}},
    "from_vectors": {
        "--max_vectors": {"type": int, "help": "only the first words; default: all"},
        "--seed": {"type": int, "help": "of the vectors of special tokens; default: 0"},
    },
    "to_vectors": {
        "--no_header": {"dest": "header", "action": "store_false", "help": "GloVe's text format"},
    },
}


def main(argv: list[str]) -> None:
    """Converts what the command line names and prints a description of the result."""
    parser = cli.Parser(
        description=__doc__, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("command", choices=FLAGS)
    parser.add_argument("source", help="directory or file to read")
    parser.add_argument("target", nargs="?", default="", help="directory or file to write")
    owners = {}
    for command, flags in FLAGS.items():
        group = parser.add_argument_group(command) if flags else parser
        for flag, options in flags.items():
            if flag not in owners:
                group.add_argument(flag, **options)
            owners.setdefault(flag, []).append(command)
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")
    given = vars(parser.parse_args(argv))
    given.pop("debug", None)
    command, source, target = (given.pop(name) for name in ("command", "source", "target"))
    if not target:
        parser.error(f"{command} needs two names, SOURCE and TARGET")
    for flag, commands in owners.items():
        name = {"--no_header": "header"}.get(flag, flag.removeprefix("--"))
        if name in given and command not in commands:
            parser.error(
                f"flags such as {flag} belong to {' and '.join(commands)}; omit it with {command}"
            )
    from tools import convert

    result = getattr(convert, command)(source, target, **given)
    result = f"{result:,} vectors" if isinstance(result, int) else result
    print(f"{source} -> {target}: {result}")


if __name__ == "__main__":
    cli.main(main)

import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from huggingface.convert import from_hf, merge, to_hf  # noqa: F401  three of the commands
from huggingface.from_peft import from_peft  # noqa: F401
from huggingface.to_peft import to_peft  # noqa: F401
from huggingface.whole import written_whole
from models.config import ModelConfig, complete_config
from models.initializers import initializer
from tools import word_vectors
from training import checkpoint, init_from, paths, run_directory
from training.config import ConfigError
from training.param_rules import unflatten_params
from training.train_step import rng_stream


def from_vectors(path: str, workdir: str, max_vectors: int = 0, seed: int = 0) -> int:
    """Makes a run directory, of architecture embeddings, of a file of word vectors; returns their number.

    The vectors of special tokens are initialized as in training. The file says nothing about words as
    neighbors, so the run has no second table. Raises ConfigError if the directory is not empty.
    """
    folder = paths.of(workdir)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{str(workdir)!r} is not empty; choose another directory for the run")
    read = vectors.read(path, max_vectors)
    tokenizer = read.tokenizer()
    ids, rows = read.rows(tokenizer)
    model = ModelConfig(architecture="embeddings", emb_dim=rows.shape[1])
    model = complete_config(model, tokenizer.size, 1)
    shape = (model.padded_vocab_size, model.emb_dim)
    table = np.array(initializer(model, "token")(rng_stream(seed, "init"), shape))
    table[ids] = rows
    config = {"vectors": str(path), "max_vectors": max_vectors, "seed": {"init": seed}}
    identities = {"data": vectors.fingerprint(path), "tokenizer": tokenizer.fingerprint}
    with written_whole(folder) as partial:
        tokenizer.save(partial / "tokenizer.json")
        checkpoint.write_params(partial, 0, unflatten_params({init_from.TOKEN_EMBEDDING: table}))
        run_directory.write_manifest(partial, config, identities)
        run_directory.write_config(partial, config, "pretrain", model)
    return len(ids)


def to_vectors(run: str, path: str, header: bool = True) -> int:
    """Writes the vectors of a run's regular tokens, in the order of their ids; returns their number."""
    folder, step = checkpoint.resolve_checkpoint(run)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    table = word_vectors.load_token_embedding(folder, step)
    ranges = tokenizer.special_ids()["regular_token_ranges"]
    ids = np.concatenate([np.arange(low, high) for low, high in ranges])
    vectors.write(path, [tokenizer.token(i) for i in ids], table[ids], header)
    return len(ids)
