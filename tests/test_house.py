"""The house holds: who may import whom, how long a file may be, which names stay out.

Read from the sources by `ast`; nothing is imported, so this is the first test to look at when a
file moves. Each checker is also shown a small house that breaks its rule.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Room -> what of ours it may import, by prefix. A room may always import itself.
MAY_IMPORT = {
    "data": (),
    "models": (),
    "objectives": ("models",),
    "tasks": ("data", "models", "objectives.batch"),
    "training": ("models", "objectives.base", "objectives.batch", "objectives.vocabulary"),
    "huggingface": (
        *("data", "models", "training", "tasks.classification", "tasks.config"),
        *("objectives.heads", "objectives.replaced_token_detection"),
    ),
    "train": ("data", "models", "objectives", "tasks", "training", "huggingface"),
    "finetune": ("data", "models", "objectives", "tasks", "training", "huggingface"),
    "tools": (
        *("data", "models", "objectives", "tasks", "training", "huggingface"),
        *("train", "finetune"),
    ),
    "studies": (
        *("data", "models", "objectives", "tasks", "training", "huggingface"),
        *("train", "finetune", "tools"),
    ),
    "benchmarks": (
        *("data", "models", "objectives", "tasks", "training", "huggingface"),
        *("train", "finetune", "tools"),
    ),
    "configs": ("models.presets",),
}
LONGEST = {"models": 300, "objectives": 300}
# Whose arrays and frameworks a room stays clear of.
FOREIGN = {"data": ("jax", "flax", "optax", "orbax", "torch", "tensorflow", "transformers")}
NEVER = ("torch", "tensorflow", "transformers")
COMPARES = ("benchmarks", "tests")  # beside which PyTorch may stand
EXPERIMENTAL = ("topologies", "multihost_utils", "pallas")
# Split, so that this file does not hold what it forbids.
PRIVATE = re.compile("|".join(("/wor" + "k/", "/roo" + "t/", "/tm" + "p/w", r"\.\./sha" + "red")))
TEXT = (".py", ".md", ".cfg", ".toml", ".txt", ".cff", ".yml", ".sh", ".json", ".tsv", "")


def sources(*rooms):
    """{path relative to the root: parsed module} of the files of the rooms (default: all)."""
    found = {}
    for room in rooms or MAY_IMPORT:
        files = (
            [ROOT / f"{room}.py"]
            if (ROOT / f"{room}.py").is_file()
            else (ROOT / room).rglob("*.py")
        )
        for file in files:
            found[file.relative_to(ROOT).as_posix()] = ast.parse(file.read_text(), str(file))
    return found


def room_of(path):
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
    """Import statements that the table of rooms does not allow, as 'path:line imports what'."""
    wrong = []
    for path, tree in modules.items():
        room = room_of(path)
        for line, name in imports(tree):
            allowed = (room, *MAY_IMPORT.get(room, MAY_IMPORT))
            ours = name.partition(".")[0] in MAY_IMPORT
            inside = any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)
            if name.startswith(".") or (ours and not inside):
                wrong.append(f"{path}:{line} imports {name}")
    return wrong


def foreign_imports(modules):
    """Imports of frameworks that a room stays clear of."""
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules.items()
        if room_of(path) not in COMPARES
        for line, name in imports(tree)
        if name.partition(".")[0] in FOREIGN.get(room_of(path), NEVER)
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


def config_fields(tree):
    """{class name: [field, ...]} of the frozen dataclasses whose fields describe a configuration.

    Those are the classes named ...Config, and those with a field that carries metadata.
    """
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if not any(
            "dataclass" in ast.unparse(mark) and "frozen" in ast.unparse(mark)
            for mark in node.decorator_list
        ):
            continue
        fields = [
            statement
            for statement in node.body
            if isinstance(statement, ast.AnnAssign)
            and "ClassVar" not in ast.unparse(statement.annotation)
        ]
        marks = ("metadata=", "knob(")  # knob: objectives' short way to write a described field
        described = any(mark in ast.unparse(field) for field in fields for mark in marks)
        if node.name.endswith("Config") or described:
            found[node.name] = [field.target.id for field in fields]
    return found


def names_read(modules):
    """Attribute names that some code reads; a check in __post_init__ does not count as a use."""
    read = set()

    def visit(node):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            read.add(node.attr)
        for child in ast.iter_child_nodes(node):
            visit(child)

    for tree in modules.values():
        visit(tree)
    return read


def dead_knobs(modules):
    """Configuration fields that no code reads."""
    read = names_read(modules)
    return [
        f"{path}: {name}.{field}"
        for path, tree in modules.items()
        for name, fields in config_fields(tree).items()
        for field in fields
        if field not in read
    ]


def tree_files():
    """Every text file of the checkout that is a source, not what programs leave behind."""
    for file in sorted(ROOT.rglob("*")):
        parts = file.relative_to(ROOT).parts
        left_behind = parts[0] in ("runs", "build", "dist") or "__pycache__" in parts
        hidden = parts[0].startswith(".") and parts[0] not in (".ci", ".gitignore")
        if (
            file.is_file()
            and file.suffix in TEXT
            and not (left_behind or hidden or "egg-info" in parts[0])
        ):
            yield file


def test_imports_follow_the_table_of_rooms():
    assert forbidden_imports(sources()) == []


def test_no_room_but_benchmarks_imports_another_framework():
    assert foreign_imports(sources()) == []


def test_configs_import_ml_collections_and_the_size_table_alone():
    wrong = [
        f"{path}:{line} {name}"
        for path, tree in sources("configs").items()
        for line, name in imports(tree)
        if name.partition(".")[0] not in ("ml_collections", "configs", "models")
    ]
    assert wrong == []


def test_jax_experimental_only_where_there_is_no_stable_name_and_no_pmap():
    assert experimental_names(sources()) == []


def test_imports_make_no_circle():
    assert circles(sources()) == []


def test_no_file_is_longer_than_its_room_allows():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources()}
    tests = {
        f.relative_to(ROOT).as_posix(): len(f.read_text().splitlines())
        for f in (ROOT / "tests").rglob("*.py")
    }
    too_long = {p: n for p, n in (lengths | tests).items() if n > LONGEST.get(room_of(p), 400)}
    assert too_long == {}


def test_every_file_opens_with_what_it_is_for():
    silent = [path for path, tree in sources().items() if not ast.get_docstring(tree)]
    assert silent == []


def test_every_top_level_package_is_a_room_of_the_table():
    packages = {
        file.parent.name for file in ROOT.glob("*/*.py") if not file.parent.name.startswith(".")
    }
    modules = {file.stem for file in ROOT.glob("*.py")}
    assert packages | modules <= {*MAY_IMPORT, "tests", "setup"} | {"docs", "runs"}


def test_no_init_file_under_tests():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_law_07_every_config_field_is_read_by_some_code():
    dead = dead_knobs(sources())
    assert not dead, "nothing reads " + ", ".join(dead)


def test_every_law_has_a_test_and_the_docs_name_tests_that_exist():
    text = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"^def (test_\w+)", text, flags=re.M))
    laws = {int(name.split("_")[2]) for name in there if name.startswith("test_law_")}
    assert laws == set(range(1, 13))
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
        "data/a.py": "import models.sequence",
        "tasks/b.py": "from objectives import loss",
    },
    foreign_imports: {"data/a.py": "import jax.numpy", "models/b.py": "def f():\n    import torch"},
    experimental_names: {
        "models/a.py": "import jax\njax.experimental.shard_map",
        "train.py": "from jax import pmap",
    },
    circles: {"models/a.py": "import models.b", "models/b.py": "from models import a"},
    dead_knobs: {
        "models/a.py": "@dataclass(frozen=True)\nclass AConfig:\n    used: int = 0\n    dead: int = 0\n"
        "    def __post_init__(self):\n        print(self.dead)\nprint(AConfig().used)"
    },
}


@pytest.mark.parametrize("checker", BROKEN, ids=lambda checker: checker.__name__)
def test_a_broken_house_is_noticed(checker):
    broken = {path: ast.parse(text) for path, text in BROKEN[checker].items()}
    assert len(checker(broken)) == (1 if checker in (circles, dead_knobs) else 2)
