"""Typed, checked configuration: a ConfigDict in, one tree of frozen dataclasses out.

First thing every entry point does. Each leaf is a field of exactly one dataclass, which states its
type, its default and (in `metadata`) its choices, range and help; nothing else is accepted.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import logging
import pathlib
import typing

import ml_collections

log = logging.getLogger("triptych")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line and names the remedy."""


@dataclasses.dataclass(frozen=True)
class Seeds:
    """One seed per stream, so that a new stream leaves the others unchanged."""

    init: int = dataclasses.field(default=0, metadata={"min": 0, "help": "initial parameters"})
    order: int = dataclasses.field(default=0, metadata={"min": 0, "help": "data order, corruption"})
    dropout: int = dataclasses.field(default=0, metadata={"min": 0, "help": "dropout masks"})
    head: int = dataclasses.field(default=0, metadata={"min": 0, "help": "new heads' parameters"})


def load_file(specification):
    """`path/to/config.py[:arg]` -> the ConfigDict that its `get_config(arg)` returns.

    Raises ConfigError when the file is missing, is not Python, or has no `get_config`.
    """
    path, _, arg = specification.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        near = sorted(str(p) for p in pathlib.Path("configs").rglob("*.py") if p.stem[0] != "_")
        raise ConfigError(
            f"config file {path!r} does not exist; expected a Python file with get_config(), "
            f"such as {_nearest(path, near) or 'configs/decoder.py'}"
        )
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"config file {path!r} cannot be run: {error}; correct the file"
        ) from error
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise ConfigError(
            f"config file {path!r} has no get_config(); add one that returns a ConfigDict"
        )
    if arg and not inspect.signature(get_config).parameters:
        raise ConfigError(
            f"config file {path!r} takes no argument, got {arg!r}; leave out ':{arg}'"
        )
    try:
        return get_config(arg) if arg else get_config()
    except (ValueError, KeyError) as error:
        raise ConfigError(f"config file {path!r} refuses {arg!r}: {_words(error)}") from error


def resolve(schema, config, where="config"):
    """Builds `schema` (a frozen dataclass type) from a mapping, checking every leaf.

    Args:
      schema: a dataclass; a field whose type is a dataclass is a section, and a field with
        `metadata={'variants': {name: dataclass}}` a section whose `name` chooses the dataclass.
      config: a mapping (ConfigDict or dict) that may leave out any leaf; strings are parsed to the
        field's type, as they come from the command line.
      where: dotted prefix for messages.

    Raises:
      ConfigError: unknown key (names the nearest), wrong type, value outside choices or range.
    """
    if not hasattr(config, "items"):
        raise ConfigError(f"{where}={config!r} is a section; set one of its keys, {_keys(schema)}")
    config = dict(config.items())
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key in config:
        if key not in fields:
            near = _nearest(key, fields)
            hint = f"did you mean {where}.{near}?" if near else f"keys here: {_keys(schema)}"
            raise ConfigError(f"unknown key {where}.{key}; {hint}")
    values, types = {}, typing.get_type_hints(schema)
    for name, field in fields.items():
        path = f"{where}.{name}"
        variants = field.metadata.get("variants")
        if variants is not None:
            values[name] = _variant(variants, config.get(name, {}), field.metadata["default"], path)
        elif dataclasses.is_dataclass(types[name]):
            values[name] = resolve(types[name], config.get(name, {}), path)
        elif name in config:
            values[name] = _leaf(types[name], field.metadata, config[name], path)
    try:
        return schema(**values)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {_words(error)}") from error


def override(config, assignments):
    """Applies `[('model.layers', '4'), ...]` to a ConfigDict; leaves stay strings until `resolve`.

    A section that gets another `name` begins with that one's own defaults: what the file says there
    is said of the first.
    """
    config = ml_collections.ConfigDict(config.to_dict() if hasattr(config, "to_dict") else config,
                                       type_safe=False)  # fmt: skip
    for key, text in sorted(assignments, key=lambda pair: not pair[0].endswith(".name")):
        *sections, leaf = key.split(".")
        node = config
        for section in sections:
            if section not in node:
                node[section] = ml_collections.ConfigDict(type_safe=False)
            node = node[section]
            if not hasattr(node, "items"):
                raise ConfigError(f"config.{key}: {section!r} is a leaf, not a section; "
                                  f"set --config.{'.'.join(sections)}=... instead")  # fmt: skip
        if leaf == "name" and node.get("name", text) != text:
            idle = [each for each in node if each != "name"]
            for each in idle:
                del node[each]
            if idle:
                log.info(f"config.{key}={text}: what the file sets for {node['name']} is left out, "
                         f"{_list(idle)}")  # fmt: skip
        node[leaf] = text
    return config


def to_dict(resolved):
    """A resolved config as plain nested dicts, variants with their `name`; what config.json holds."""
    result = {}
    for field in dataclasses.fields(resolved):
        value = getattr(resolved, field.name)
        if dataclasses.is_dataclass(value):
            nested = to_dict(value)
            if "variants" in field.metadata:
                nested = {"name": type(value).name, **nested}
            result[field.name] = nested
        else:
            result[field.name] = value
    return result


def flatten(tree, prefix=""):
    """Nested dicts -> {'a.b.c': leaf}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def difference(old, new):
    """Leaves that differ between two nested dicts: [(key, old or '(absent)', new or '(absent)')].

    Compared as JSON, because one side usually comes from a config.json (tuples become lists).
    """
    old, new = flatten(json.loads(json.dumps(old))), flatten(json.loads(json.dumps(new)))
    absent = "(absent)"
    return [
        (key, old.get(key, absent), new.get(key, absent))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def describe(resolved, given):
    """Lines `key = value   (where it came from)` for --print_config."""
    given = flatten(given.to_dict() if hasattr(given, "to_dict") else dict(given))
    return [
        f"config.{key} = {value!r}   ({'set' if key in given else 'default'})"
        for key, value in flatten(to_dict(resolved)).items()
    ]


def _variant(variants, config, default, path):
    config = dict(config.items()) if hasattr(config, "items") else {"name": config}
    name = config.pop("name", default)
    if name not in variants:
        near = _nearest(str(name), variants)
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(
            f"{path}.name={name!r} is unknown; {hint}expected one of {_list(variants)}"
        )
    return resolve(variants[name], config, path)


def _leaf(kind, metadata, value, path):
    value = _typed(kind, value, path)
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        near = _nearest(str(value), [str(choice) for choice in choices])
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(
            f"{path}={value!r} is not a choice; {hint}expected one of {_list(choices)}"
        )
    low, high = metadata.get("min"), metadata.get("max")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if (low is not None and value < low) or (high is not None and value > high):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            limits = f"at most {high}" if low is None else limits
            raise ConfigError(f"{path}={value!r} is out of range; expected {limits}")
    return value


def _typed(kind, value, path):
    kinds = (
        typing.get_args(kind) if not isinstance(kind, type) and typing.get_args(kind) else (kind,)
    )
    kinds = tuple(typing.get_origin(k) or k for k in kinds)
    if typing.get_origin(kind) is tuple:
        kinds = (tuple,)
    for k in kinds:
        converted = _convert(k, value)
        if converted is not None:
            return converted
    names = {int: "an integer, such as 4", float: "a number, such as 3e-4", bool: "true or false",
             str: "text", tuple: "a tuple, such as ('a', 'b')"}  # fmt: skip
    raise ConfigError(
        f"{path}={value!r} has the wrong type ({type(value).__name__}); "
        f"expected {' or '.join(names.get(k, k.__name__) for k in kinds)}"
    )


def _convert(kind, value):
    """The value as `kind`, or None where it is not one (no leaf is ever None)."""
    if kind is bool:
        if isinstance(value, str):
            return {"true": True, "false": False}.get(value.lower())
        return value if isinstance(value, bool) else None
    if kind is tuple:
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                return None
        return _tuples(value) if isinstance(value, (tuple, list)) else None
    if isinstance(value, bool):
        return None
    if kind is str:
        return value if isinstance(value, str) else None
    try:
        number = float(value) if isinstance(value, (str, int, float)) else None
    except ValueError:
        return None
    if number is None or number != number or number in (float("inf"), float("-inf")):
        return None
    if kind is int:  # '1e6' is an integer, '1.5' is not
        exact = int(value) if isinstance(value, str) and value.strip("+-").isdigit() else None
        return exact if exact is not None else (int(number) if number == int(number) else None)
    return number if kind is float else None


def _tuples(value):
    return tuple(_tuples(v) if isinstance(v, (tuple, list)) else v for v in value)


def _nearest(word, words):
    return next(iter(difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)), "")


def _keys(schema):
    return _list(field.name for field in dataclasses.fields(schema))


def _list(words):
    return ", ".join(str(word) for word in words)


def _words(error):
    return " ".join(str(error.args[0] if error.args else error).split())
