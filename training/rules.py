"""Ordered rules over parameter paths: first match wins, nothing unmatched, nothing unused.

Weight decay, learning-rate multipliers, freezing and sharding are each one such table.
"""

import re

from flax import traverse_util

from training.config import ConfigError


def paths(params):
    """{'encoder/layer_0/mlp/in/kernel': leaf} of a nested parameter tree, in sorted order."""
    return dict(sorted(traverse_util.flatten_dict(params, sep="/").items()))


def key_name(key):
    """One step of a JAX key path as a word: a dict key, a field's name or an index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def resolve(rules, names, what, spare=False):
    """{path: value} by the first rule `(regex, value)` that matches from the path's start.

    Args:
      rules: ordered ((regex, value), ...); a regex has to match the whole path.
      names: parameter paths.
      what: the config key, for messages.
      spare: a rule may match nothing, in a table that serves networks of every kind.

    Raises:
      ConfigError: a path that no rule matches, a rule that matches no path at all, a bad regex.
    """
    try:
        compiled = [(re.compile(regex), regex, value) for regex, value in rules]
    except (re.error, ValueError, TypeError) as error:
        raise ConfigError(f"{what}: {error}; expected pairs (regular expression, value)") from error
    table, used = {}, set()
    for name in names:
        for index, (pattern, _, value) in enumerate(compiled):
            if pattern.fullmatch(name):
                table[name] = value
                used.add(index)
                break
        else:
            raise ConfigError(
                f"{what}: no rule matches parameter {name!r}; end with a rule for '.*'"
            )
    for index, (pattern, regex, _) in enumerate(compiled):
        if not spare and index not in used and not any(pattern.fullmatch(name) for name in names):
            raise ConfigError(
                f"{what}: rule {regex!r} matches no parameter; the paths look like {next(iter(names))!r}"
            )
    return table


def frozen_paths(patterns, names, what="config.freeze"):
    """Paths that match one of `patterns`, as a frozenset; a pattern that matches none is an error."""
    frozen = set()
    for pattern in patterns:
        try:
            hits = [name for name in names if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ConfigError(f"{what}={pattern!r} is not a regular expression: {error}") from error
        if not hits:
            raise ConfigError(
                f"{what}={pattern!r} matches no parameter; the paths look like {next(iter(names))!r}"
            )
        frozen.update(hits)
    if frozen and len(frozen) == len(names):
        raise ConfigError(f"{what}={patterns!r} freezes every parameter; leave some to train")
    return frozenset(frozen)


def split(params, frozen):
    """(trainable, frozen) subtrees: what gradients and optimizer state exist for, and the rest."""
    flat = paths(params)
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    rest = {path: leaf for path, leaf in flat.items() if path in frozen}
    return traverse_util.unflatten_dict(trainable, sep="/"), traverse_util.unflatten_dict(
        rest, sep="/"
    )


def merge(trainable, frozen):
    """Inverse of `split`; leaves of `trainable` win."""
    return traverse_util.unflatten_dict({**paths(frozen), **paths(trainable)}, sep="/")
