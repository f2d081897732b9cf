"""--print_config: every field of the config that would run, with its value, its origin and its help.

Used by training/cli.py and by the programs of tools/ that have a config.
"""

import functools
import importlib
import os
import sys

from training import config as config_lib
from training.config import ConfigError


def run(given, schema, config):
    """Prints the config of an entry file.

    Args:
      given: the namespace of the flags.
      schema: dataclass of the config.
      config: the mapping of the command line.
    """
    if "task" in config and not config.get("init_from"):
        _log("init_from is empty, and printed as 'RUN'")
        show("given", config_lib.resolve(schema, {**config, "init_from": "RUN"}), config)
    else:
        show(given.print_config, config_lib.resolve(schema, config), config, given.workdir)


def show(extent, resolved, config, workdir=None):
    """Prints a resolved config.

    Args:
      extent: value of --print_config. 'complete': a model that init_from names is read, or imported, for
        its part of the config; if it cannot be read, a line on standard error says so. 'given': it is not.
      config: the mapping that `resolved` was made from.
      workdir: the run directory; None for a new run.
    """
    completed = None
    if resolved.init_from and extent == "complete":
        import jax

        from training import init_from, paths

        jax.config.update("jax_platforms", "cpu")  # the accelerator is for the run
        as_run = functools.partial(importlib.import_module("huggingface").as_run, log=_log)
        folder = paths.of(workdir or os.devnull)
        try:
            completed = init_from.resolve(resolved, folder, as_run).config
        except ConfigError as error:
            _log(f"without the fields that init_from decides: {error}")
    print("\n".join(config_lib.describe(resolved, config, completed)))


def _log(line):
    print(line, file=sys.stderr)
