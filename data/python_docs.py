"""`python_docs`: English technical prose that every CPython carries, as a TFDS builder.

A source of `data.sources` (corpus) and `data.labelled` (docstring -> package); nothing is downloaded.
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

# Bumped when the rules below change: part of the fingerprint's key.
VERSION = "1.1.0"
# Present in CPython 3.11 to 3.14 on every distribution (Debian ships tkinter, distutils, turtle, venv
# apart; asynchat, cgi, imp, nntplib left in 3.12 and 3.13), and the richest in docstrings of those.
# Implementation modules count for the module they implement.
LABELS = {
    "asyncio": ("asyncio",),
    "datetime": ("datetime", "_pydatetime", "_strptime"),
    "decimal": ("decimal", "_pydecimal"),
    "email": ("email",),
    "http": ("http",),
    "importlib": ("importlib",),
    "inspect": ("inspect",),
    "io": ("io", "_pyio"),
    "ipaddress": ("ipaddress",),
    "logging": ("logging",),
    "mailbox": ("mailbox",),
    "multiprocessing": ("multiprocessing",),
    "pathlib": ("pathlib",),
    "pydoc": ("pydoc",),
    "tarfile": ("tarfile",),
    "typing": ("typing",),
    "unittest": ("unittest",),
    "urllib": ("urllib",),
    "wsgiref": ("wsgiref",),
    "xml": ("xml",),
}
_LABEL_OF = {module: label for label, modules in LABELS.items() for module in modules}
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
_SKIPPED |= {"__pycache__", "lib-dynload", "pydoc_data"}
# Shares of the space of hashes: test and validation of the labelled docstrings (the rest trains),
# and validation of the corpus that is left.
TEST, VALIDATION, CORPUS_VALIDATION = 0.26, 0.06, 0.03
# A docstring of fewer words says nothing about its package.
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
    """What two near-duplicates share: the text with case, white space and identifiers normalised."""
    text = _IDENTIFIER.sub(" 0 ", text)
    return re.sub(r"(?:\b0 ?)+", "0 ", re.sub(r"[\W_]+", " ", text.lower())).strip()


def _place(key: str, salt: str) -> float:
    """Where a hash puts a key, in [0, 1)."""
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
                    f"{path} is not read by this Python ({error.msg}, line {error.lineno}): name the "
                    "library of the running interpreter"
                ) from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = (ast.get_docstring(node) or "").strip()
                if text:
                    yield module, text


def topics(root: Path) -> Iterator[str]:
    """The language reference that `help('for')` shows: pydoc_data.topics, read without running it."""
    path = root / "pydoc_data" / "topics.py"
    if path.is_file():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                yield from (text.strip() for text in ast.literal_eval(node.value).values())


def collect(root: Path) -> dict[str, dict[str, list]]:
    """Everything, split: {'corpus': {split: [text]}, 'labelled': {split: [(text, label)]}}.

    Counts (documents):       corpus train / validation    labelled train / validation / test
      CPython 3.11.7                6225 / 189                     2081 / 174 / 793
      CPython 3.12.1                5939 / 178                     2097 / 175 / 791
      CPython 3.13.0                5858 / 169                     2124 / 180 / 804

    - Labelled: docstrings of `LABELS` of at least three words; one of each group of near-duplicates;
      groups that two labels share are left out. The split is by hash of `near_key`.
    - Corpus: every docstring and topic once (by normalised text), but for those whose `near_key` is
      one of the labelled validation or test split; its own validation split by hash of `near_key`.
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
    labelled = {"train": [], "validation": [], "test": []}
    held_out = set()
    for key, (text, label) in first.items():
        if len(owners[key]) > 1:
            continue
        place = _place(key, "labelled")
        split = "test" if place < TEST else "validation" if place < TEST + VALIDATION else "train"
        labelled[split].append((text, label))
        if split != "train":
            held_out.add(key)
    corpus = {"train": [], "validation": []}
    for text, key in everything.values():
        if key not in held_out:
            held = _place(key, "corpus") < CORPUS_VALIDATION
            corpus["validation" if held else "train"].append(text)
    return {"corpus": corpus, "labelled": labelled}


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """TFDS builder; configs `corpus` (text) and `labelled` (text, label)."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="corpus", description="docstrings and topics"),
        tfds.core.BuilderConfig(name="labelled", description="docstring -> the package it is from"),
    ]
    name = "python_docs"
    url_infos = {}  # nothing is downloaded; TFDS would look for a checksum file in a package

    def __init__(self, *, collected=None, **kwargs):
        """`collected`: what `collect` gave; needed to prepare, not to read."""
        self._collected = collected
        super().__init__(**kwargs)

    def _info(self):
        features = {"text": tfds.features.Text()}
        if self.builder_config.name == "labelled":
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
            if self.builder_config.name == "labelled":
                yield number, {"text": row[0], "label": row[1]}
            else:
                yield number, {"text": row}


def prepare(root: str = "", cache_dir: str = "", log=lambda line: None) -> tuple[Path, str]:
    """Makes both configs where they are not there yet -> (their TFDS directory, fingerprint).

    `root` is a standard library ('' is the running interpreter's). The fingerprint is a digest of
    every text, label and split. Reading the sources takes seconds, so what they gave is remembered
    by their names, sizes and times.
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
            fingerprint = digest(VERSION, collected)
            directory = cache / fingerprint[:16]
            for config in ("corpus", "labelled"):
                if not collected[config]["train"]:
                    raise ValueError(f"{library} gives no {config} docstring: name another library")
                _write(config, collected, directory)
            record = {"fingerprint": fingerprint, "directory": directory.name}
            write_atomically(known, json.dumps(record).encode())
    record = json.loads(known.read_text())
    directory = cache / record["directory"]
    if not directory.is_dir():  # someone emptied a part of the cache
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
    """Where TFDS keeps one config below what `prepare` returned."""
    return directory / "python_docs" / config / VERSION
