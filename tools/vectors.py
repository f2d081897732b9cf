"""`python -m tools.vectors export|import|coverage`: the token table of a run as a file, and back.

python -m tools.vectors export RUN_DIR[@STEP] vectors.txt.gz    # .txt .vec .bin, .gz or .xz behind
python -m tools.vectors import glove.txt RUN_DIR --limit=100000
python -m tools.vectors coverage glove.txt --data='text:/path/*.txt'
"""

import pathlib

import numpy as np

from data import sources, vectors
from data import tokenizer as tokenizers
from data.config import DataConfig
from models.config import ModelConfig, completed
from models.initial import initial
from training import checkpoint, cli, rules, run_directory, transfer
from training import step as steps
from training.config import ConfigError


def export(run: str, path: str, header: bool = True) -> int:
    """Writes the vectors of a run's ordinary pieces, in the order of their ids; how many there are."""
    folder, step = checkpoint.locate(run)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    table = transfer.table_of(folder, step)
    ids = [i for a, b in tokenizer.special_ids()["ordinary"] for i in range(a, b)]
    records = ((tokenizer.piece(i), table[i]) for i in ids)
    vectors.write(path, len(ids), table.shape[1], records, header)
    return len(ids)


def import_(path: str, workdir: str, limit: int = 0, seed: int = 0) -> None:
    """Makes a run directory, of architecture embeddings, of a file of vectors.

    Special tokens begin like those of a fresh table; nothing is known of words as neighbours, so
    that table is left out. Raises ConfigError where the directory holds something already.
    """
    folder = pathlib.Path(workdir)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{workdir!r} is not empty; choose another directory for the run")
    read = vectors.read(path, limit)
    tokenizer = read.tokenizer()
    ids, rows = read.rows(tokenizer)
    config = ModelConfig(architecture="embeddings", width=rows.shape[1])
    config = completed(config, tokenizer.size, 1)
    shape = (config.padded_vocab_size, config.width)
    key = steps.stream_key(seed, "init")
    table = np.array(initial(config, "token")(key, shape))
    table[ids] = rows
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    checkpoint.write_params(folder, 0, rules.merge({transfer.EMBEDDINGS: table}, {}))
    source = {"vectors": path, "limit": limit, "seed": {"init": seed}}
    run_directory.record_run(folder, source, "import", config)
    extra = {"data": vectors.fingerprint(path), "tokenizer": tokenizer.fingerprint}
    run_directory.write_manifest(folder, source, extra)


def coverage(path: str, source: str, limit: int = 0) -> vectors.Coverage:
    """How much of a corpus (`text:GLOB`, `tfds:NAME`, `python_docs`) a vocabulary knows: that of a file
    of vectors or of a run."""
    if vectors.is_file(path):
        tokenizer = vectors.read(path, limit).tokenizer()
    else:
        tokenizer = tokenizers.load(checkpoint.locate(path)[0] / "tokenizer.json")
    data = DataConfig(source=source)
    texts = (
        part.text
        for _, name in sources.parse(data.source)
        for found in [
            sources.resolve(name, data.document_separator, data.text_field, data.cache_dir, print)
        ]
        for numbers in found.splits().values()
        for file in numbers
        for piece in found.pieces(file, 1 << 24)
        for part in found.read(piece)
    )
    return vectors.coverage(tokenizer, texts)


def main(argv: list[str]) -> None:
    """Command line of this file."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", choices=("export", "import", "coverage"))
    parser.add_argument("source", metavar="RUN_DIR|FILE", help="what is read")
    parser.add_argument(
        "target", metavar="FILE|RUN_DIR", nargs="?", default="", help="what is made"
    )
    parser.add_argument("--limit", type=int, default=0, help="first words of a file; 0: all")
    parser.add_argument("--data", default="", help="coverage: a corpus, such as 'text:/path/*.txt'")
    parser.add_argument("--glove", action="store_true", help="export text without a first line")
    parser.add_argument("--debug", action="store_true", help="traceback instead of one line")
    given = parser.parse_args(argv)
    if given.command == "coverage":
        if not given.data or given.target:
            raise ConfigError("coverage needs a vocabulary and --data=CORPUS, and nothing else")
        print(coverage(given.source, given.data, given.limit))
        return
    if not given.target or given.data:
        raise ConfigError(
            f"{given.command} needs two names, that of what is read and of what is made"
        )
    if given.command == "export":
        count = export(given.source, given.target, not given.glove)
        print(f"{count:,} vectors of {given.source} in {given.target}")
    else:
        import_(given.source, given.target, given.limit)
        print(f"{given.source} as the run {given.target}")


if __name__ == "__main__":
    cli.main(main)
