"""python_docs: its sources, its splits, and that the pretraining text contains no evaluation text.

One fixture reads the library of the running interpreter, the others a library of a few files.
"""

import re

import pytest

from data import labeled, python_docs

WORDS = ["start", "stop", "open", "close", "read", "write", "join", "split"]
LIBRARY = {
    "asyncio/tasks.py": '''
"""Tasks run coroutines in the event loop."""
class Task:
    """Wait for the future `fut_1` to finish, and say so."""
    async def run(self):
        """Wait for the  future `other_name` to
        FINISH and say so."""
''',
    "asyncio/more.py": "".join(
        f'def f{i}(): """Wait for {a} and then {b} it."""\n'
        for i, (a, b) in enumerate((a, b) for a in ["red", "blue", "old", "new"] for b in WORDS)
    ),
    "http/more.py": "".join(
        f'def f{i}(): """Load {a} numbers from a file."""\n' for i, a in enumerate(WORDS)
    ),
    "email/message.py": 'def get(): """Give the header of the message named so."""\n',
    "xml/dom.py": 'def get(): """Give the header of the message named so."""\n\nclass A: """One."""\n',
    "other.py": '"""Not labeled, but good English prose."""\ndef f(): pass\n',
    "test/test_x.py": '"""Skipped: a test of the library."""\n',
    "idlelib/a.py": '"""Skipped: another program of its own."""\n',
    "site-packages/a.py": '"""Skipped: not of the standard library."""\n',
    "pydoc_data/topics.py": "topics = {'for': 'The for statement ' 'walks over things.'}\n",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    root = tmp_path_factory.mktemp("library")
    for name, text in LIBRARY.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(scope="module")
def collected():
    """The documents of the running interpreter."""
    return python_docs.collect(python_docs.standard_library())


def texts_of(split):
    return [row[0] if isinstance(row, tuple) else row for row in split]


def test_modules_classes_functions_and_topics_are_read_and_other_folders_are_not(library):
    collected = python_docs.collect(library)
    everything = [t for rows in collected["corpus"].values() for t in texts_of(rows)]
    everything += [t for rows in collected["labeled"].values() for t in texts_of(rows)]
    for expected in (
        "Tasks run coroutines",
        "Not labeled",
        "The for statement walks over things.",
    ):
        assert any(text.startswith(expected) for text in everything)
    assert not any("Skipped" in text for text in everything)
    # Two near-duplicates are one example. A text of two packages has no label, nor has a single word.
    examples = [row for rows in collected["labeled"].values() for row in rows]
    assert {label for _, label in examples} == {"asyncio", "http"} and len(examples) == 2 + 32 + 8
    assert sum("say so" in text for text, _ in examples) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Return the  Value.", "return the\n    value", True),
        ("Close `fd_1` now.", "Close self.stream now", True),
        ("Call foo(x) first", "Call barBaz(x, y=1) first", True),
        ("Call a.foo().bar(x) first", "Call b().foo() first", True),
        ("Read audio/* parts.", "Read image/png parts.", True),
        ("Return the value.", "Return the name.", False),
    ],
)
def test_near_duplicates_share_a_key(one, other, same):
    assert (python_docs.near_key(one) == python_docs.near_key(other)) is same


def normalized(text):
    """The text without case, white space, punctuation and names, independently of `near_key`."""
    words = re.findall(r"\S+", text)
    words = ["@" if re.search(r"\w[_.(]\w|_|\d|[a-z][A-Z]|\(|`|\*", w) else w for w in words]
    return " ".join(re.sub(r"\W", "", w).lower() for w in words)


def test_no_evaluation_docstring_or_near_duplicate_is_in_the_pretraining_text(collected):
    labels, corpus = collected["labeled"], collected["corpus"]
    evaluation = texts_of(labels["validation"]) + texts_of(labels["test"])
    assert len(evaluation) > 500
    train = texts_of(corpus["train"])
    for key in (
        python_docs.near_key,
        lambda text: re.sub(r"\s+", "", text.lower()),
    ):
        assert not {key(text) for text in evaluation} & {key(text) for text in train}
        for split in (labels["train"], corpus["validation"]):
            assert not {key(t) for t in evaluation} & {key(t) for t in texts_of(split)}
        assert not {key(t) for t in train} & {key(t) for t in texts_of(corpus["validation"])}
    # Independently of near_key: no two are equal without everything that looks like a name.
    assert not {normalized(t) for t in evaluation} & {normalized(t) for t in train}
    # The corpus leaves out the evaluation texts and little else.
    assert len(train) + len(evaluation) > 0.95 * len(
        {t for rows in collected.values() for s in rows.values() for t in texts_of(s)}
    )


def test_no_text_is_repeated(collected):
    for split in (*collected["corpus"].values(), *collected["labeled"].values()):
        folded = [" ".join(text.lower().split()) for text in texts_of(split)]
        assert len(folded) == len(set(folded))


def test_labels_are_the_fixed_list_and_examples_are_enough(collected):
    splits = collected["labeled"]
    assert len(python_docs.LABELS) == 20
    for split in splits.values():
        assert {label for _, label in split} == set(python_docs.LABELS)
    assert len(splits["train"]) >= 2000 and len(splits["test"]) >= 700
    assert len(splits["validation"]) >= 150


def test_a_split_does_not_depend_on_other_documents(library, tmp_path):
    """The split is by hash: a new document moves no other."""
    before = python_docs.collect(library)
    (library / "zzz.py").write_text('"""One more module with a docstring of its own."""\n')
    after = python_docs.collect(library)
    (library / "zzz.py").unlink()
    for config in before:
        for split, rows in before[config].items():
            assert set(rows) <= set(after[config][split])


def test_a_second_call_reads_the_cache_and_the_fingerprint_is_of_the_contents(library, tmp_path):
    lines = []
    first, fingerprint = python_docs.prepare(str(library), str(tmp_path), lines.append)
    again, same = python_docs.prepare(str(library), str(tmp_path), lines.append)
    assert (first, fingerprint) == (again, same) and len(lines) == 1
    assert fingerprint.startswith(first.name)
    (library / "zzz.py").write_text('"""One more module with a docstring of its own."""\n')
    try:
        assert python_docs.prepare(str(library), str(tmp_path))[1] != fingerprint
    finally:
        (library / "zzz.py").unlink()
    read = labeled.load(f"python_docs:{library}", cache_dir=str(tmp_path), log=print)
    expected = python_docs.collect(library)["labeled"]
    for split, rows in expected.items():
        assert list(zip(read[split].text, read[split].label, strict=True)) == rows


def test_a_directory_without_sources_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Python sources: name a standard library"):
        python_docs.prepare(str(tmp_path), str(tmp_path))
