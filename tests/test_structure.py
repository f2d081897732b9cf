"""The structure of the codebase: import rules, file lengths, prose, and names that stay out.

Read from the sources by `ast` and `tokenize`; nothing is imported. Each checker is also shown a small
tree that breaks its rule.
"""

import ast
import io
import os
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

EVERYTHING = ("data", "models", "objectives", "tasks", "training", "huggingface")
EVERYWHERE = (*EVERYTHING, "generation", "evaluation")
# Package -> what of ours it may import, by prefix. A package may always import itself.
MAY_IMPORT = {
    "data": (),
    "models": (),
    "objectives": ("models",),
    "generation": ("models", "data.special_tokens"),
    "tasks": ("data", "models", "objectives", "generation"),
    "training": (
        *("models", "tasks.Task", "tasks.FINETUNE_TASKS", "tasks.sums"),
        *("objectives.Objective", "objectives.OBJECTIVES"),
    ),
    "evaluation": ("data", "models", "generation", "objectives"),
    "huggingface": ("data", "models", "training", "tasks", "objectives"),
    "train": EVERYTHING,
    "finetune": EVERYTHING,
    "launch": ("training.cli", "training.config"),
    "sweeps": EVERYWHERE,
    "tools": (*EVERYWHERE, "launch.checkout", "sweeps"),
    "studies": (*EVERYWHERE, "sweeps", "train", "finetune", "tools"),
    "benchmarks": (*EVERYWHERE, "train", "finetune", "tools"),
    "configs": ("models.presets", "sweeps"),
}
LONGEST = {"models": 300, "objectives": 300}
ENTRY_FILES = {"train.py": 230, "finetune.py": 230}
# Frameworks that a package must not import.
FOREIGN = {"data": ("jax", "flax", "optax", "orbax", "torch", "tensorflow", "transformers")}
NEVER = ("torch", "tensorflow", "transformers")
COMPARES = ("benchmarks", "tests")  # where PyTorch may be imported
EXPERIMENTAL = ("topologies", "multihost_utils", "pallas")
BANNERS = ["Config", "Mesh", "Initialization", "Task", "Model and optimizer", "Train state", "Train step",
           "Train loop", "Final scores"]  # fmt: skip
# The task is looked up by name in these alone.
NAMES_TASKS = ("tasks/", "huggingface/families/", "configs/", "tests/", "benchmarks/")

# Words of the first edition's dialect and British spellings, in prose: docs, docstrings, comments and
# strings. Each has a plain English or American replacement.
BANNED = re.compile(
    r"\b(pieces?|told|rooms?|house|arms?|begun|goes on|go on|going on|held[- ]out|knobs?|as likely"
    r"|of those that|stands? (?:for|behind|beside)|the cube|busy cores"
    r"|labell\w+|unlabelled|initialis\w+|normalis\w+|neighbour\w*|behaviour\w*|tokenis\w+|optimis\w+"
    r"|colours?|centres?|utilis\w+|regularis\w+|factoris\w+|recognis\w+|generalis\w+|favour\w*)\b"
    r"|\b(?:what|who|that|which) types\b|\bis typed\b|\btyped by\b",
    re.IGNORECASE,
)
# (path, text) where a banned word is right: a value of another project or a quotation.
ALLOWED = (
    ("data/python_docs.py", "labelled"),  # hashed into the splits since the first edition
)
# Split, so that this file does not hold what it forbids.
PRIVATE = re.compile("|".join(("/wor" + "k/", "/roo" + "t/", "/tm" + "p/w", r"\.\./sha" + "red")))
TEXT = (".py", ".md", ".cfg", ".toml", ".txt", ".cff", ".yml", ".sh", ".json", ".tsv", "")


def sources(*packages):
    """{path relative to the root: parsed module} of the files of the packages (default: all)."""
    found = {}
    for package in packages or MAY_IMPORT:
        single = ROOT / f"{package}.py"
        files = [single] if single.is_file() else (ROOT / package).rglob("*.py")
        for file in files:
            found[file.relative_to(ROOT).as_posix()] = ast.parse(file.read_text(), str(file))
    return found


def package_of(path):
    """'data/store.py' -> 'data'; 'train.py' -> 'train'."""
    return path.partition("/")[0].removesuffix(".py")


def imports(tree):
    """(line, dotted module) of every import statement, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def forbidden_imports(modules):
    """Import statements that the table does not allow, as 'path:line imports name'."""
    wrong = []
    for path, tree in modules.items():
        package = package_of(path)
        for line, name in imports(tree):
            allowed = (package, *MAY_IMPORT.get(package, MAY_IMPORT))
            ours = name.partition(".")[0] in MAY_IMPORT
            inside = any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)
            if name.startswith(".") or (ours and not inside):
                wrong.append(f"{path}:{line} imports {name}")
    return wrong


def foreign_imports(modules):
    """Imports of frameworks that a package must not import."""
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules.items()
        if package_of(path) not in COMPARES
        for line, name in imports(tree)
        if name.partition(".")[0] in FOREIGN.get(package_of(path), NEVER)
    ]


def experimental_names(modules):
    """Uses of jax.experimental beyond the three modules that have no stable name, and of pmap."""
    wrong = []
    for path, tree in modules.items():
        names = list(imports(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                names.append((node.lineno, ast.unparse(node)))
        for line, name in names:
            words = name.split(".")
            if (
                words[:2] == ["jax", "experimental"]
                and len(words) > 2
                and words[2] not in EXPERIMENTAL
            ):
                wrong.append(f"{path}:{line} {name}")
            if words[0] == "jax" and words[-1] == "pmap":
                wrong.append(f"{path}:{line} {name}")
    return wrong


def circles(modules):
    """Cycles among our modules, each as the list of modules on it."""
    names = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in modules
    }
    graph = {}
    for name, path in names.items():
        wanted = {target for _, target in imports(modules[path])}
        # `from room.file import name` wants room.file; `from room import file` no more than that file.
        wanted |= {target.rpartition(".")[0] for target in wanted if target not in names}
        graph[name] = sorted((wanted & names.keys()) - {name})
    found, done = [], set()

    def visit(name, trail):
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                visit(target, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def prose(path, text):
    """(line, text) of what people read in a file: all of a document; docstrings, comments and strings of
    a module, and the names that it defines. In tests: docstrings, comments and the names of tests."""
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    in_tests = "tests" in path.parts
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.lineno)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")
        name = getattr(node, "name", None) or getattr(node, "arg", None)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id  # of a variable, or of a field and so of a flag
        if isinstance(name, str) and not in_tests:
            yield node.lineno, name.replace("_", " ")
    strings = [
        getattr(tokenize, kind) for kind in ("STRING", "FSTRING_MIDDLE") if hasattr(tokenize, kind)
    ]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT or (
            token.type in strings and (line in docstrings or not in_tests)
        ):
            yield from enumerate(token.string.splitlines(), line)


def banned_words(files):
    """'path:line: word' of every banned word in the prose of {path: text}."""
    found = []
    for path, text in files.items():
        for line, words in prose(pathlib.Path(path), text):
            for match in BANNED.finditer(words):
                if not any(path == where and allowed in words for where, allowed in ALLOWED):
                    found.append(f"{path}:{line}: {match[0]!r} in {words.strip()[:80]!r}")
    return found


def task_names(modules):
    """Places outside the tables that name a task: they should look it up."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules.items()
        if not path.startswith(NAMES_TASKS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"\bclassification\b", node.value)
        and not _is_docstring(tree, node)
    ]


def _is_docstring(tree, constant):
    return any(isinstance(node, ast.Expr) and node.value is constant for node in ast.walk(tree))


def tree_files():
    """Every text file of the checkout that is a source, not one that programs leave behind."""
    for folder, folders, files in os.walk(ROOT):
        top = pathlib.Path(folder) == ROOT
        left = ("runs", "build", "dist") if top else ()
        folders[:] = sorted(
            name
            for name in folders
            if name not in (*left, "__pycache__")
            and "egg-info" not in name
            and (not name.startswith(".") or name == ".ci")
        )
        for name in sorted(files):
            file = pathlib.Path(folder) / name
            if file.suffix in TEXT and (not name.startswith(".") or name == ".gitignore"):
                yield file


def test_imports_follow_the_table():
    assert forbidden_imports(sources()) == []


def test_no_package_but_benchmarks_imports_another_framework():
    assert foreign_imports(sources()) == []


def test_configs_import_ml_collections_the_presets_and_the_algebra_of_sweeps_alone():
    wrong = [
        f"{path}:{line} {name}"
        for path, tree in sources("configs").items()
        for line, name in imports(tree)
        if name.partition(".")[0] not in ("ml_collections", "configs", "models", "sweeps")
    ]
    assert wrong == []


def test_jax_experimental_only_where_there_is_no_stable_name_and_no_pmap():
    assert experimental_names(sources()) == []


def test_imports_make_no_circle():
    assert circles(sources()) == []


def test_no_file_is_longer_than_its_package_allows():
    files = [*sources(), *(f.relative_to(ROOT).as_posix() for f in (ROOT / "tests").rglob("*.py"))]
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in files}
    limits = {path: ENTRY_FILES.get(path, LONGEST.get(package_of(path), 400)) for path in files}
    assert {p: n for p, n in lengths.items() if n > limits[p]} == {}


def test_every_file_opens_with_a_docstring():
    assert [path for path, tree in sources().items() if not ast.get_docstring(tree)] == []


def test_every_top_level_package_is_in_the_table():
    packages = {
        file.parent.name for file in ROOT.glob("*/*.py") if not file.parent.name.startswith(".")
    }
    modules = {file.stem for file in ROOT.glob("*.py")}
    assert packages | modules <= {*MAY_IMPORT, "tests", "setup"} | {"docs", "runs"}


def test_no_init_file_under_tests():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("file", ENTRY_FILES)
def test_both_entry_files_have_the_same_nine_banners(file):
    text = (ROOT / file).read_text()
    assert re.findall(r"# ---- ([^:\n-]+?)(?::[^-\n]*)? -+\n", text) == BANNERS
    assert re.findall(r'logs.banner\("(.+)"\)', text) == BANNERS


def test_tasks_are_looked_up_and_not_named():
    assert task_names(sources()) == []


def test_prose_is_plain_american_english():
    files = {
        f.relative_to(ROOT).as_posix(): f.read_text()
        for f in tree_files()
        if f.suffix in (".py", ".md") and f.name != "test_structure.py"
    }
    assert banned_words(files) == []


def test_every_invariant_has_a_test_and_the_docs_name_tests_that_exist():
    text = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"^def (test_\w+)", text, flags=re.M))
    invariants = {int(n.split("_")[2]) for n in there if n.startswith("test_invariant_")}
    assert invariants == set(range(1, 15))
    named = set()
    for file in (ROOT / "docs").rglob("*.md"):
        named |= set(re.findall(r"`(test_\w+)`", file.read_text()))
    assert len(named) >= 12 and named <= there


def test_nothing_names_a_private_place():
    named = []
    for file in tree_files():
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if PRIVATE.search(line):
                named.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert named == []


BROKEN = {
    forbidden_imports: {
        "data/a.py": "import models.inputs",
        "training/b.py": "from objectives import loss",
    },
    foreign_imports: {"data/a.py": "import jax.numpy", "models/b.py": "def f():\n    import torch"},
    experimental_names: {
        "models/a.py": "import jax\njax.experimental.shard_map",
        "train.py": "from jax import pmap",
    },
    circles: {"models/a.py": "import models.b", "models/b.py": "from models import a"},
    task_names: {
        "training/a.py": "x = 'heads/classification/.*'",
        "tools/b.py": "f('classification')",
    },
}


@pytest.mark.parametrize("checker", BROKEN, ids=lambda checker: checker.__name__)
def test_a_broken_tree_is_noticed(checker):
    broken = {path: ast.parse(text) for path, text in BROKEN[checker].items()}
    assert len(checker(broken)) == (1 if checker is circles else 2)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("docs/a.md", "The house has laws.\nText is held out."),
        ("models/a.py", '"""One piece."""\nx = f"the arm {1}"'),
        ("models/b.py", "told = 1\ndef read(arm):\n    return arm"),
        ("tests/a.py", "# goes on\ndef test_an_arm_is_named():\n    x = 'house'"),
    ],
)
def test_a_banned_word_is_noticed(path, text):
    assert len(banned_words({path: text})) == 2
