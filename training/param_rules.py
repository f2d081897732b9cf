"""Ordered rules over parameter paths: the first match wins; unmatched parameters are errors.

Weight decay, learning-rate multipliers, freezing and sharding are each one such table.
"""

import re

from flax import traverse_util

from training.config import ConfigError


def flatten_params(params):
    """{'encoder/layer_0/mlp/in/kernel': array} of a nested parameter tree, sorted by path."""
    return dict(sorted(traverse_util.flatten_dict(params, sep="/").items()))


def unflatten_params(flat):
    """Inverse of `flatten_params`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def key_name(key):
    """The name of one key in a JAX key path: a dict key, a field name or an index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def resolve_rules(rules, names, what, allow_unused=False):
    """{path: value}, from the first rule `(regex, value)` that matches the whole path.

    Args:
      rules: ordered ((regex, value), ...).
      names: parameter paths.
      what: the config key, for messages.
      allow_unused: a rule may match no parameter, in a table that serves all models.

    Raises:
      ConfigError: a path that no rule matches, a rule that matches no path, an invalid regex.
    """
    try:
        compiled = [(re.compile(regex), regex, value) for regex, value in rules]
    except (re.error, ValueError, TypeError) as error:
        raise ConfigError(f"{what}: {error}; expected pairs (regular expression, value)") from error
    resolved = {}
    for name in names:
        matches = (value for pattern, _, value in compiled if pattern.fullmatch(name))
        try:
            resolved[name] = next(matches)
        except StopIteration:
            raise ConfigError(
                f"{what}: no rule matches parameter {name!r}; end with a rule for '.*'"
            ) from None
    for pattern, regex, _ in compiled:
        if not allow_unused and not any(pattern.fullmatch(name) for name in names):
            raise ConfigError(
                f"{what}: rule {regex!r} matches no parameter; the paths look like {next(iter(names))!r}"
            )
    return resolved


def find_frozen(patterns, names, what="config.freeze"):
    """Paths that match one of the regexes `patterns`, as a frozenset.

    Raises ConfigError if a pattern matches no path, or if nothing is left to train."""
    frozen = matching_paths(patterns, names, what)
    if frozen and len(frozen) == len(names):
        raise ConfigError(f"{what}={patterns!r} freezes every parameter; leave some to train")
    return frozen


def matching_paths(patterns, names, what):
    """Paths that match one of the regexes `patterns`, as a frozenset.

    Raises ConfigError if a pattern matches no path."""
    found = set()
    for pattern in patterns:
        try:
            matched = [name for name in names if re.fullmatch(pattern, name)]
        except re.error as error:
            raise ConfigError(f"{what}={pattern!r} is not a regular expression: {error}") from error
        if not matched:
            raise ConfigError(
                f"{what}={pattern!r} matches no parameter; the paths look like {next(iter(names))!r}"
            )
        found.update(matched)
    return frozenset(found)


def find_all_frozen(config, names):
    """Paths that a run does not train, by config.freeze and, in finetuning, config.task and config.adapter,
    as a frozenset.

    With an adapter, the model's own parameters are frozen, except the head of the task and what
    `adapter.modules_to_save` names. Raises ConfigError if nothing of the adapter is left to train."""
    frozen = find_frozen(config.freeze, names)
    if not hasattr(config, "adapter"):  # pretraining
        return frozen
    adapter = config.adapter
    patterns = config.task.frozen_patterns(config.model.architecture)
    unused = {name for name in names if any(re.fullmatch(p, name) for p in patterns)}
    untrained = frozen | unused
    if adapter.name == "none":
        return untrained
    saved = matching_paths(adapter.modules_to_save, names, "config.adapter.modules_to_save")
    own = {name for name in names if adapter.trains(name)}
    if not own - untrained:
        remedy = "choose another adapter"
        if not own:
            reason = "the model has none that it trains"
        elif own <= unused:
            reason = f"config.task.name={config.task.name!r} uses none of them"
        else:
            reason = f"config.freeze={config.freeze!r} has all that the task uses"
            remedy += ", or leave freeze out"
        raise ConfigError(
            f"config.adapter.name={adapter.name!r} trains no parameter: {reason}; {remedy}"
        )
    heads = {name for name in names if name.startswith(f"heads/{config.task.name}/")}
    return frozenset(names) - (own | heads | saved) | untrained


def split_params(params, frozen):
    """(trainable, frozen) subtrees: the first has gradients and optimizer state, the second has none."""
    flat = flatten_params(params)
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    rest = {path: leaf for path, leaf in flat.items() if path in frozen}
    return unflatten_params(trainable), unflatten_params(rest)


def merge_params(trainable, frozen):
    """Inverse of `split_params`; where both have a path, `trainable` wins."""
    return unflatten_params({**flatten_params(frozen), **flatten_params(trainable)})
