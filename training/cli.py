"""The command line of every entry point: --config, --workdir, --config.key=value, --debug.

Turns errors into one line on standard error and the exit status 1; 143 is a preemption after a save.
"""

import argparse
import difflib
import logging
import os
import sys
import threading
import traceback

import jax

from training import config as configs
from training import logs, preemption
from training.config import ConfigError


def arguments(argv, description, extra=(), config="required", examples=""):
    """(namespace, ConfigDict with the overrides applied) from a command line.

    Args:
      argv: sys.argv[1:].
      description: first line of --help.
      extra: (flag, keyword arguments of argparse) of further flags.
      config: 'required' or 'optional'; without --config the second value is None.
      examples: lines for the end of --help, printed as they stand.

    Raises:
      ConfigError: a flag that does not exist (names the nearest), a missing --config, a bad file.
    """
    leaves = "any leaf of the config: --config.section.key=value"
    parser = Parser(description=description, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter,
                     epilog=f"{leaves}\n\n{examples}".rstrip())  # fmt: skip
    required = config == "required"
    parser.add_argument("--config", required=required, metavar="FILE[:ARG]", help="config file")
    parser.add_argument("--debug", action="store_true", help="traceback instead of one line")
    parser.add_argument("--print_config", action="store_true", help="print every leaf and exit")
    for flag, keywords in extra:
        parser.add_argument(flag, **keywords)
    overrides, rest = _overrides(argv)
    given = parser.parse_args(rest)
    if given.config is None:
        if overrides:
            raise ConfigError(
                f"--config.{overrides[0][0]} changes a config; give --config=FILE too"
            )
        return given, None
    return given, configs.override(configs.load_file(given.config), overrides)


def main(run, argv=None, console=None):
    """Runs `run(argv)`, maps what it raises to the exit status, and exits. The log goes to the stream
    `console`: standard error where the output is for another program."""
    argv = sys.argv[1:] if argv is None else argv
    logs.to_console(console)
    if "--debug" not in argv:
        _hush()
    try:
        run(argv)
    except preemption.Preempted as stop:
        _leave(stop.code)
    except KeyboardInterrupt:
        _say("interrupted; what was saved is intact, run the same command again")
        _leave(1)
    except Exception as error:  # noqa: BLE001  every error ends here, as one line
        if "--debug" in argv:
            traceback.print_exc()
        words = " ".join(str(error).split()) or type(error).__name__
        if any(sign in words for sign in ("No space left", "File too large", "Disk quota")):
            words = (
                f"the disk is full, or a file may not grow ({words[:200]}...); free space and run the "
                f"same command again: what was saved before is intact"
            )
            error = ConfigError(words)
        known = isinstance(error, (ConfigError, FloatingPointError, FileNotFoundError, ValueError))
        _say(words if known else f"{type(error).__name__}: {words[:600]} (--debug shows where)")
        _leave(1)


def enter(argv, description, schema, run):
    """What the entry files' command lines do: parse, check, set the process up, `run(config, workdir)`.

    The config is checked before processes join, so that a bad one fails at once everywhere.
    """
    flags = (("--workdir", {"required": True, "help": "run directory"}),)
    given, config = arguments(argv, description, flags)
    resolved = configs.resolve(schema, config)
    if given.print_config:
        print("\n".join(configs.describe(resolved, config)))
        return
    if resolved.training.deterministic:
        deterministic()
    start_processes()
    compilation_cache()
    run(config, given.workdir)


def start_processes():
    """Joins the processes of a multi-host run; a single process needs nothing.

    Cluster environments that JAX knows (TPU pods, Slurm, ...) are joined when
    TRIPTYCH_DISTRIBUTED=1; anywhere else JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID say who is who.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            number, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"JAX_COORDINATOR_ADDRESS is set, but {error} is missing or no integer; set "
                f"JAX_NUM_PROCESSES and JAX_PROCESS_ID too"
            ) from error
        jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], number, index)
    elif os.environ.get("TRIPTYCH_DISTRIBUTED") == "1":
        jax.distributed.initialize()
    else:
        return
    logs.only_main_speaks()


def compilation_cache():
    """Persistent compilation cache, on by default: $JAX_COMPILATION_CACHE_DIR or the user's cache."""
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
        os.environ.get("TRIPTYCH_CACHE") or os.path.expanduser("~/.cache/triptych"), "xla"
    )
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return directory


def deterministic():
    """Bit-equal reruns on a GPU; has an effect only before the first device is touched."""
    flag = "--xla_gpu_deterministic_ops=true"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def _overrides(argv):
    overrides, rest, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("--config."):
            key, equals, value = word[len("--config.") :].partition("=")
            if not equals:
                if not words or words[0].startswith("--"):
                    raise ConfigError(f"{word} has no value; write {word}=VALUE")
                value = words.pop(0)
            overrides.append((key, value))
        else:
            rest.append(word)
    return overrides, rest


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ConfigErrors of one line; for programs around runs."""

    def error(self, message):
        flags = [s for action in self._actions for s in action.option_strings]
        wrong = message.removeprefix("unrecognized arguments: ").split("=")[0].split()[0]
        near = difflib.get_close_matches(wrong, flags, n=1)
        hint = f"; did you mean {near[0]}?" if near and message.startswith("unrec") else ""
        raise ConfigError(f"{message}{hint} (--help lists the flags)")


def _hush():
    """Libraries' background threads repeat in tracebacks what the main thread reports in a line."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    threading.excepthook = sys.unraisablehook = lambda report: None


def _say(words):
    print(f"error: {words}", file=sys.stderr, flush=True)


def _leave(status):
    sys.stdout.flush()
    if status == 1 and jax.distributed.is_initialized() and jax.process_count() > 1:
        os._exit(status)  # the others would wait for this process to take leave
    sys.exit(status)
