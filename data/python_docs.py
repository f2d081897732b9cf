"""`python_docs`: the English technical prose in every CPython, as a TFDS builder without a download.

A source of data/sources.py (corpus) and data/labeled.py (docstring -> the package it is from).
"""

import ast
import contextlib
import hashlib
import io
import json
import re
import sysconfig
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data.files import cache_directory, digest, locked, write_atomically

# Raised when a rule below changes: part of the fingerprint.
VERSION = "1.1.0"
# This spelling is hashed: another one would change the labeled splits and the published fingerprints.
_HASHED_NAME = "labelled"
# Packages that are in CPython 3.11 to 3.14 on every distribution (Debian ships tkinter, distutils,
# turtle and venv apart; asynchat, cgi, imp and nntplib left in 3.12 and 3.13), and of those the
# richest in docstrings.
LABELS = (
    *("asyncio", "datetime", "decimal", "email", "http", "importlib", "inspect", "io", "ipaddress"),
    *("logging", "mailbox", "multiprocessing", "pathlib", "pydoc", "tarfile", "typing", "unittest"),
    *("urllib", "wsgiref", "xml"),
)
# Implementation modules count for the module they implement.
_LABEL_OF = {name: name for name in LABELS}
_LABEL_OF |= {"_pydatetime": "datetime", "_strptime": "datetime"}
_LABEL_OF |= {"_pydecimal": "decimal", "_pyio": "io"}
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
_SKIPPED |= {"__pycache__", "lib-dynload", "pydoc_data"}
# Shares, by hash: test and validation of the labeled docstrings (the rest is train), and validation
# of the remaining corpus.
TEST, VALIDATION, CORPUS_VALIDATION = 0.26, 0.06, 0.03
# A shorter docstring does not identify its package.
_MIN_WORDS = 3
_IDENTIFIER = re.compile(
    r"`[^`\n]*`"  # quoted code
    r"|'[^'\s]*'"
    r"|\b[A-Za-z_][\w.]*\([^()\n]{0,80}\)"  # calls with their arguments
    r"|\b\w+/[\w*]+"  # MIME types, paths
    r"|\b[A-Za-z_]\w*(?:\.\w+)+"  # dotted names
    r"|\b[A-Za-z_]\w*(?=\()"  # calls
    r"|\b\w*(?:_|[a-z][A-Z]|\d)\w*\b"  # snake_case, camelCase, digits
    r"|\*\w+\*?"  # *arguments*
)


def near_key(text: str) -> str:
    """The text with case, white space and identifiers normalized: equal for near-duplicates."""
    text = _IDENTIFIER.sub(" 0 ", text)
    return re.sub(r"(?:\b0 ?)+", "0 ", re.sub(r"[\W_]+", " ", text.lower())).strip()


def _uniform_hash(key: str, salt: str) -> float:
    """A hash of the key in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:7], "big") / 2**56


def standard_library() -> Path:
    """The directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def sources(root: Path) -> list[Path]:
    """The Python files of a standard library that are read, sorted by their path in it."""
    found = []
    for path in root.rglob("*.py"):
        folders = path.relative_to(root).parts[:-1]
        if not _SKIPPED & set(folders) and not any(f.startswith("config-") for f in folders):
            if not path.name.startswith("_sysconfigdata"):  # differs from build to build
                found.append(path)
    if not found:
        raise FileNotFoundError(
            f"{root} holds no Python sources: name a standard library, such as "
            f"{standard_library()}, or write python_docs alone"
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """(top-level module, docstring) of every module, class and function, in a fixed order."""
    for path in sources(root):
        module = path.relative_to(root).parts[0].removesuffix(".py")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError as error:
                raise ValueError(
                    f"this Python cannot parse {path} ({error.msg}, line {error.lineno}): name the "
                    "library of the running interpreter"
                ) from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = (ast.get_docstring(node) or "").strip()
                if text:
                    yield module, text


def topics(root: Path) -> Iterator[str]:
    """The language reference that `help('for')` shows: pydoc_data.topics, parsed but not imported."""
    path = root / "pydoc_data" / "topics.py"
    if path.is_file():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                yield from (text.strip() for text in ast.literal_eval(node.value).values())


def collect(root: Path) -> dict[str, dict[str, list]]:
    """All documents: {'corpus': {split: [text]}, 'labeled': {split: [(text, label)]}}.

    Number of documents:      corpus train / validation    labeled train / validation / test
      CPython 3.11.7                6225 / 189                    2081 / 174 / 793
      CPython 3.12.1                5939 / 178                    2097 / 175 / 791
      CPython 3.13.0                5858 / 169                    2124 / 180 / 804

    - Labeled: docstrings of `LABELS` of at least three words, one of each group of near-duplicates.
      Groups that two labels share are left out. The split is by hash of `near_key`.
    - Corpus: every docstring and topic once (by normalized text), except those whose `near_key` is in
      the labeled validation or test split. Its own validation split is by hash of `near_key`.
    """
    first: dict[str, tuple[str, str]] = {}
    owners = defaultdict(set)
    everything = {}
    for module, text in docstrings(root):
        key = near_key(text)
        everything.setdefault(" ".join(text.lower().split()), (text, key))
        owner = _LABEL_OF.get(module, "")
        owners[key].add(owner)
        if owner and len(key.split()) >= _MIN_WORDS:
            first.setdefault(key, (text, owner))
    for text in topics(root):
        everything.setdefault(" ".join(text.lower().split()), (text, near_key(text)))
    labeled = {"train": [], "validation": [], "test": []}
    excluded = set()  # from the corpus
    for key, example in first.items():
        if len(owners[key]) > 1:
            continue
        place = _uniform_hash(key, _HASHED_NAME)
        split = "test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"
        labeled[split].append(example)
        if split != "train":
            excluded.add(key)
    corpus = {"train": [], "validation": []}
    for text, key in everything.values():
        if key not in excluded:
            in_validation = _uniform_hash(key, "corpus") < CORPUS_VALIDATION
            corpus["validation" if in_validation else "train"].append(text)
    return {"corpus": corpus, "labeled": labeled}


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """TFDS builder with configs `corpus` (text) and `labeled` (text, label)."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="corpus", description="docstrings and topics"),
        tfds.core.BuilderConfig(name="labeled", description="docstring -> the package it is from"),
    ]
    name = "python_docs"
    url_infos = {}  # nothing is downloaded; TFDS would look for a checksum file in a package

    def __init__(self, *, collected=None, **kwargs):
        """`collected`: the result of `collect`; needed to prepare, not to read."""
        self._collected = collected
        super().__init__(**kwargs)

    def _info(self):
        features = {"text": tfds.features.Text()}
        if self.builder_config.name == "labeled":
            features["label"] = tfds.features.ClassLabel(names=list(LABELS))
        # Made directly: `create_dataset_info` looks for metadata files in an installed package.
        return tfds.core.DatasetInfo(
            builder=self,
            description="Docstrings of CPython's standard library and the topics of pydoc.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://docs.python.org/3/library/",
            license="PSF-2.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        splits = self._collected[self.builder_config.name]
        # TFDS refuses an empty split, which only a tiny library has.
        return {split: self._generate_examples(rows) for split, rows in splits.items() if rows}

    def _generate_examples(self, rows):
        for number, row in enumerate(rows):
            values = row if isinstance(row, tuple) else (row,)
            yield number, dict(zip(("text", "label"), values, strict=False))


def prepare(root: str = "", cache_dir: str = "", log=lambda line: None) -> tuple[Path, str]:
    """Builds both configs if they are not in the cache -> (their TFDS directory, fingerprint).

    `root` is a standard library ('': the running interpreter's). The fingerprint is a digest of every
    text, label and split. Parsing the sources takes seconds, so the cache keeps the result by the
    names, sizes and modification times of the files.
    """
    library = Path(root).expanduser() if root else standard_library()
    cache = cache_directory(cache_dir) / "python_docs"
    cache.mkdir(exist_ok=True)
    state = [
        (path.relative_to(library).as_posix(), (s := path.stat()).st_size, s.st_mtime_ns)
        for path in sources(library)
    ]
    known = cache / f"{digest(VERSION, str(library), state)[:24]}.json"
    if not known.is_file():
        with locked(cache / "python_docs.lock", log):
            log(f"python_docs: reading the docstrings of {library}")
            collected = collect(library)
            hashed = {"corpus": collected["corpus"], _HASHED_NAME: collected["labeled"]}
            fingerprint = digest(VERSION, hashed)
            directory = cache / fingerprint[:16]
            for config in ("corpus", "labeled"):
                if not collected[config]["train"]:
                    raise ValueError(f"{library} has no {config} docstring: name another library")
                _write(config, collected, directory)
            record = {"fingerprint": fingerprint, "directory": directory.name}
            write_atomically(known, json.dumps(record).encode())
    record = json.loads(known.read_text())
    directory = cache / record["directory"]
    if not directory_of(directory, "labeled").is_dir():  # a part of the cache was deleted
        known.unlink()
        return prepare(root, cache_dir, log)
    return directory, record["fingerprint"]


def _write(config: str, collected: dict, directory: Path) -> None:
    builder = PythonDocs(
        config=config, data_dir=directory, file_format="array_record", collected=collected
    )
    tfds.disable_progress_bar()
    quiet = contextlib.redirect_stdout(io.StringIO())  # TFDS announces a download there
    with tempfile.TemporaryDirectory() as downloads, quiet:
        builder.download_and_prepare(
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )


def directory_of(directory: Path, config: str) -> Path:
    """The directory of one config below the one that `prepare` returns."""
    return directory / "python_docs" / config / VERSION
