"""Configs: a ConfigDict in, one tree of frozen dataclasses out, every field checked.

Each field belongs to one dataclass, which states its type, default and (as metadata) choices, range
and help. Unknown keys are errors.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import logging
import math
import pathlib
import traceback
import typing

import ml_collections

log = logging.getLogger("triptych")

KINDS = {int: "an integer, such as 4", float: "a number, such as 3e-4", bool: "true or false",
         str: "text", tuple: "a tuple, such as ('a', 'b')"}  # fmt: skip

# What a mistake in a config file raises.
BUGS = (ValueError, LookupError, TypeError, AttributeError, NameError)

# Key of a value that was given to a section as a whole: `seed=1`, `objective=causal_lm`.
WHOLE = ""


class ConfigError(ValueError):
    """A config that cannot be used; the message is one line and says what to do."""


def load_config_file(specification, function="get_config"):
    """The ConfigDict that `get_config(arg)` of `path/to/config.py[:arg]` returns, or what another function
    of that name does (get_sweep of a sweep file).

    Raises ConfigError if the file is missing, is not Python, has no get_config or rejects the argument.
    """
    path, _, arg = specification.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        is_sweep = function == "get_sweep"
        files = sorted(
            str(p)
            for p in pathlib.Path("configs").rglob("*.py")
            if ("sweeps" in p.parts) == is_sweep and f"def {function}(" in p.read_text("utf-8")
        )
        example = "configs/sweeps/learning_rate.py" if is_sweep else "configs/decoder.py"
        raise ConfigError(
            f"config file {path!r} does not exist; expected a Python file with {function}(), "
            f"such as {_nearest(path, files) or example}"
        )
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    if spec is None:
        raise ConfigError(
            f"config file {path!r} is not a Python file: its name does not end in .py"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"config file {path!r} fails{_at(error, file)}; correct it") from error
    get_config = getattr(module, function, None)
    if get_config is None:
        returned = "ConfigDict" if function == "get_config" else "Sweep (docs/sweeps.md)"
        raise ConfigError(
            f"config file {path!r} has no {function}(); add one that returns a {returned}"
        )
    if arg and not inspect.signature(get_config).parameters:
        raise ConfigError(f"config file {path!r} takes no argument, got {arg!r}; omit ':{arg}'")
    try:
        return get_config(arg) if arg else get_config()
    except ValueError as error:  # raised for its argument
        rejects = f"rejects {arg!r}" if arg else "fails"
        raise ConfigError(f"config file {path!r} {rejects}: {_one_line(error)}") from error
    except BUGS as error:
        raise ConfigError(f"config file {path!r} fails{_at(error, file)}; correct it") from error


def _at(error, file):
    """' in line 7: NameError: ...': the last line of `file` in the traceback, and the exception."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(file)]  # fmt: skip
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    where = f" in line {lines[-1]}" if lines else ""
    return f"{where}: {type(error).__name__}: {_one_line(error)}"


def override(config, assignments):
    """A copy of the config with `[('model.num_layers', '4'), ...]` applied.

    Values stay strings until `resolve`. A key below a section wins over a value for the whole section,
    whatever their order. A section that gets another `name` keeps no other value of the config.
    """
    config = ml_collections.ConfigDict(config.to_dict() if hasattr(config, "to_dict") else config,
                                       type_safe=False)  # fmt: skip

    def order(assignment):
        return assignment[0].count("."), not assignment[0].endswith(".name")

    for key, value in sorted(assignments, key=order):
        *sections, field = key.split(".")
        node = config
        for section in sections:
            below = node.get(section)
            if not hasattr(below, "items"):
                below = {} if below is None else {WHOLE: below}
                node[section] = ml_collections.ConfigDict(below, type_safe=False)
            node = node[section]
        before = node.get("name", node.get(WHOLE, value))
        if field == "name" and before != value:
            dropped = [each for each in node if each not in ("name", WHOLE)]
            if dropped:
                log.info(f"config.{key}={value}: ignoring {_list(dropped)}, set for {before}")
            for each in list(node):
                del node[each]
        node[field] = value
    return config


def resolve(schema, config, where="config", root=None):
    """Builds `schema` from a mapping and checks every field.

    Args:
      schema: a frozen dataclass. A field whose type is a dataclass is a section. A field with
        `metadata={'variants': {name: dataclass}, 'default': name}` is a section whose `name` chooses the
        dataclass. A section of integers alone (seeds) may be one integer, which sets all of them.
      config: a mapping (ConfigDict or dict) of some of the fields. Strings are parsed to the field's
        type, as they come from the command line.
      where: dotted prefix for messages.
      root: the arguments for the whole config, in which the nearest key is searched; None: these.

    Raises:
      ConfigError: unknown key (names the nearest), wrong type, value outside the choices or the range.
    """
    given, root = _given(schema, config, where), root or (schema, where, config)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key in given:
        if key not in fields:
            below = next(iter(flatten({key: _plain(given[key])})), key).removesuffix(f".{WHOLE}")
            raise ConfigError(
                f"unknown key {where}.{below}; {_suggestion(below, schema, where, root)}"
            )
    values, types = {}, typing.get_type_hints(schema)
    for name, field in fields.items():
        path = f"{where}.{name}"
        if "variants" in field.metadata:
            values[name] = _resolve_variant(field.metadata, given.get(name, {}), path, root)
        elif dataclasses.is_dataclass(types[name]):
            values[name] = resolve(types[name], given.get(name, {}), path, root)
        elif name in given:
            values[name] = _check(types[name], field.metadata, given[name], path)
    try:
        return schema(**values)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from error


def to_dict(resolved):
    """A resolved config as nested dicts, variants with their `name`: the content of config.json."""
    result = {}
    for field in dataclasses.fields(resolved):
        value = getattr(resolved, field.name)
        if dataclasses.is_dataclass(value):
            variant = {"name": type(value).name} if "variants" in field.metadata else {}
            value = variant | to_dict(value)
        result[field.name] = value
    return result


def flatten(tree, prefix=""):
    """Nested dicts -> {'a.b.c': value}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def difference(old, new):
    """Fields that differ between two nested dicts: [(key, old or '(absent)', new or '(absent)')].

    Compared as JSON, because one side usually comes from a config.json (tuples become lists).
    """
    old, new = flatten(json.loads(json.dumps(old))), flatten(json.loads(json.dumps(new)))
    pairs = {
        key: (old.get(key, "(absent)"), new.get(key, "(absent)")) for key in old.keys() | new.keys()
    }
    return [(key, was, now) for key, (was, now) in sorted(pairs.items()) if was != now]


def describe(resolved, given, completed=None):
    """Aligned lines for --print_config: key, value, origin ('set', 'default' or 'init_from'), help.

    given: the mapping that `resolved` was made from; completed: `resolved` with the fields that the model of
    init_from decides.
    """
    before = {key: (value,) for key, value, *_ in _rows(resolved, given)}
    after = list(_rows(completed or resolved, given))
    changed = {key for key, value, *_ in after if value != before.get(key, (None,))[0]}
    replaced = {key.partition(".")[0] for key in changed}
    rows = []
    for key, value, is_set, help in after:
        decided = key in changed or (key.partition(".")[0] in replaced and not is_set)
        origin = "init_from" if decided else "set" if is_set else "default"
        rows.append((f"config.{key}", repr(value), origin, help))
    widths = [min(max(len(row[i]) for row in rows), limit) for i, limit in enumerate((99, 28, 9))]
    texts = [[text.ljust(width) for text, width in zip(row, widths, strict=False)] for row in rows]
    return [
        f"{key} = {value}  {origin}  {row[3]}".rstrip()
        for row, (key, value, origin) in zip(rows, texts, strict=True)
    ]


def _rows(section, given, prefix=""):
    """(key, value, whether it was set, help) of every field."""
    for field in dataclasses.fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            below = given.get(field.name, {})
            if "variants" in field.metadata:
                name, below = _split_name(below)
                choices = _list(field.metadata["variants"])
                yield f"{key}.name", type(value).name, name is not None, f"one of {choices}"
            yield from _rows(value, _given(type(value), below, f"config.{key}"), f"{key}.")
        else:
            choices, help = field.metadata.get("choices"), field.metadata.get("help", "")
            if choices:
                help = f"{help} ({' | '.join(repr(choice) for choice in choices)})".lstrip()
            yield key, value, field.name in given, help


def _given(schema, config, where):
    """The fields that are set in a section; one integer for a section of integers is expanded."""
    given = dict(config.items()) if hasattr(config, "items") else {WHOLE: config}
    if WHOLE not in given:
        return given
    whole, names = given.pop(WHOLE), [field.name for field in dataclasses.fields(schema)]
    types = typing.get_type_hints(schema)
    if not names or any(types[name] is not int for name in names):
        raise ConfigError(f"{where}={whole!r} is a section; set one of its keys, {_list(names)}")
    return dict.fromkeys(names, whole) | given


def _split_name(config):
    """(name or None, the other keys) of a section with variants; 'text' means {'name': 'text'}."""
    given = dict(config.items()) if hasattr(config, "items") else {WHOLE: config}
    whole = given.pop(WHOLE, None)
    return given.pop("name", whole), given


def _resolve_variant(metadata, config, path, root):
    name, given = _split_name(config)
    name = metadata["default"] if name is None else name
    variants = metadata["variants"]
    if name not in variants:
        raise ConfigError(f"{path}.name={name!r} is unknown; {_expected(name, variants)}")
    return resolve(variants[name], given, path, root)


def _suggestion(key, schema, where, root):
    """The nearest key of the section; else the keys of the whole config with the nearest last name."""
    names = [field.name for field in dataclasses.fields(schema)]
    if near := _nearest(key, names, 0.65):
        return f"did you mean {where}.{near}?"
    wanted, last = f"{where}.{key}", key.rpartition(".")[2]
    known = {}  # path -> the names of the variants that have it, '' for one that is chosen
    for path, variant in _paths(*root):
        known.setdefault(path, []).append(variant)

    def likeness(path):
        return difflib.SequenceMatcher(None, wanted, path).ratio()

    if wanted in known:
        return f"it is a field of {_list(known[wanted][:3])}"
    nearest = difflib.get_close_matches(last, {path.rpartition(".")[2] for path in known}, 2, 0.72)
    found = [
        path
        for name in nearest
        for path in sorted(known, key=likeness, reverse=True)
        if path.endswith(f".{name}")
    ] or difflib.get_close_matches(wanted, known, 1, 0.9)
    if not found:
        return f"expected one of {_shortened(names)}"
    of = "" if "" in known[found[0]] else f" It is a field of {_list(known[found[0]][:3])}"
    return f"did you mean {' or '.join(found[:3])}?{of}"


def _paths(schema, where, config):
    """(path, '' or the variant that would have to be chosen) of every field below a config."""
    types = typing.get_type_hints(schema)
    given = dict(config.items()) if hasattr(config, "items") else {}
    for field in dataclasses.fields(schema):
        path, below = f"{where}.{field.name}", given.get(field.name, {})
        if variants := field.metadata.get("variants"):
            chosen = _split_name(below)[0] or field.metadata["default"]
            yield f"{path}.name", ""
            for name, variant in variants.items():
                for each, _ in _paths(variant, path, {}):
                    yield each, "" if name == chosen else f"{path}.name={name}"
        elif dataclasses.is_dataclass(types[field.name]):
            yield from _paths(types[field.name], path, below)
        else:
            yield path, ""


def _check(kind, metadata, value, path):
    """The value of a field, converted to its type and checked against its choices and range."""
    if hasattr(value, "items"):
        raise ConfigError(
            f"{path} is a field, not a section, got {dict(value.items())}; set --{path}=VALUE"
        )
    kind, given, words = typing.get_origin(kind) or kind, value, metadata.get("words", ())
    if isinstance(given, str) and given in words:
        return given
    if metadata.get("axis") and (values := _convert(tuple, given)) is not None:
        return tuple(_check(kind, metadata | {"axis": False}, each, path) for each in values)
    value = _convert(kind, given)
    if value is None:
        raise ConfigError(
            f"{path}={given!r} has the wrong type ({type(given).__name__}); expected "
            f"{''.join(f'{word!r}, ' for word in words)}{'or ' * bool(words)}{KINDS[kind]}"
        )
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise ConfigError(f"{path}={value!r} is not a choice; {_expected(value, choices)}")
    low, high = metadata.get("min"), metadata.get("max")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, int) and abs(value) > LARGEST:
            low, high = -LARGEST if low is None else low, LARGEST if high is None else high
        if (low is not None and value < low) or (high is not None and value > high):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            limits = f"at most {high}" if low is None else limits
            raise ConfigError(f"{path}={value!r} is out of range; expected {limits}")
    return value


LARGEST = 2**31 - 1  # of an integer field without a limit of its own


def _convert(kind, value):
    """The value as `kind`, or None where it is not one (no field is ever None)."""
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    elif isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            return None
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is tuple:
        return _tuples(value) if isinstance(value, (tuple, list)) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if kind is int:  # '1e6' is an integer, '1.5' is not
        return int(value) if value == int(value) else None
    return float(value)


def _tuples(value):
    return tuple(_tuples(v) if isinstance(v, (tuple, list)) else v for v in value)


def _plain(value):
    return value.to_dict() if hasattr(value, "to_dict") else value


def _expected(value, choices):
    near = _nearest(str(value), [str(choice) for choice in choices])
    return f"{f'did you mean {near!r}? ' if near else ''}expected one of {_list(choices)}"


def _nearest(word, words, cutoff=0.5):
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)), "")


def _list(words):
    return ", ".join(str(word) for word in words)


def _shortened(words):
    return _list(words[:20]) + ", ... (--print_config lists all)" * (len(words) > 20)


def _one_line(error):
    return " ".join(str(error.args[0] if error.args else error).split())
