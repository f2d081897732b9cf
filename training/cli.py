"""The command line of every program: --config, --config.key=value, --workdir, --print_config, --debug.

Errors become one line on standard error. Exit status: 0 finished, 143 preempted after a save, 130
interrupted, 141 output closed, 1 error. Imports no JAX, so that --help and a wrong flag are answered at once.
"""

import argparse
import ast
import dataclasses
import difflib
import errno
import importlib
import logging
import os
import pathlib
import re
import runpy
import select
import sys
import textwrap
import threading
import time
import traceback

from training import config as config_lib
from training import huge_pages, logs, preemption
from training.config import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
ROOT = pathlib.Path(__file__).resolve().parents[1]
ENTRY_FLAGS = (
    ("--workdir", {"help": "run directory"}),
    ("--verbose", {"action": "store_true", "help": "also log the model and the parameter rules"}),
)


def main(program, argv=None, console=None, resumes=False):
    """Runs `program(argv)` and exits with the status of what it raises.

    console: stream of the log; standard error for programs whose output other programs read.
    resumes: whether the same command continues after Ctrl-C. If nobody reads its log any more, as
      after `| head`, such a program continues; others end.
    """
    if getattr(program, "func", program).__module__ == "__main__":
        huge_pages.use()
    argv = sys.argv[1:] if argv is None else argv
    logs.log_to_console(console, is_needed=not resumes)
    if "--debug" not in argv:
        _silence_threads()
    try:
        with preemption.insistent_interrupts() as interrupted:
            program(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
    except preemption.Preempted as stop:
        _exit(stop.code)
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001  every error ends here, as one line
        if isinstance(error, BrokenPipeError) and _is_closed(
            sys.stdout
        ):  # `| head` has read enough
            logs.discard(sys.stdout)
            _exit(141)
        if "--debug" in argv:
            traceback.print_exc()
        if isinstance(error, KeyboardInterrupt) or interrupted.is_set():
            message = str(error) * isinstance(error, KeyboardInterrupt)
            remedy = "; run the same command again to resume" if resumes else ""
            _print_error(_leave(message or f"interrupted{remedy}"))
            _exit(130)
        _print_error(_leave(explain(error), not isinstance(error, RuntimeError)))
        _exit(1)


def explain(error):
    """The line that says what was wrong, for any exception of a program."""
    message = " ".join(str(error).split()) or type(error).__name__
    ours = isinstance(error, (ConfigError, FloatingPointError))
    if ours or (isinstance(error, OSError) and error.errno is None):
        return message
    in_text = re.search(r"os[_ ]error(?:_code=')? ?(\d+)", message)  # TensorStore, Rust
    number = getattr(error, "errno", None) or (in_text and int(in_text[1]))
    named = re.search(r"\"(/[^\"]+)\"", message)
    place = getattr(error, "filename", None) or (named[1] if named else "a file")
    if number in FULL:
        return (
            f"cannot write {place}: the disk is full or a file would be too large; free space and run the "
            f"same command again: earlier checkpoints are intact"
        )
    if number in DENIED:
        return (
            f"cannot use {place!s:.200} ({os.strerror(number)}): change its permissions, or name another "
            f"place (--workdir, --config.data.cache_dir, $TRIPTYCH_CACHE)"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {place!s:.200} ({os.strerror(number)}): name another path"
    if isinstance(error, ValueError):
        return message
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        return (
            f"out of memory ({message[:160]}): lower training.batch_size, the sequence length or the model's "
            f"size, or raise training.grad_accum_steps"
        )
    return (
        backend_error() or f"{type(error).__name__}: {message[:600]} (--debug prints the traceback)"
    )


def backend_error():
    """Why JAX has no device, '' if it has one or was not used."""
    jax = sys.modules.get("jax")
    try:
        return "" if jax is None or jax.devices() else "JAX found no device"
    except Exception as error:  # noqa: BLE001  plugins raise anything, such as AssertionError
        reason = " ".join(str(error).split())[:160] or "its plugin is not installed"
        return (
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} cannot be used here ({reason}); unset "
            f"it to use the devices that there are, or install the extra that has it, such as .[cuda]"
        )


def check_run_or_config(given, config) -> None:
    """Raises ConfigError unless a command line has one of --run and --config."""
    if (given.run is None) == (config is None):
        raise ConfigError(
            "expected either --run=DIR (an existing run) or --config=FILE (a new run), got "
            f"{'neither' if config is None else 'both'}"
        )


def run_entry_point(argv, description, schema, run):
    """Parses the command line of an entry file, checks the config, and calls `run(config, workdir)`.

    The config is checked before processes join, so that a wrong one fails at once everywhere.

    Args:
      argv: sys.argv[1:].
      description: docstring of the entry file.
      schema: dataclass of the config, or 'module:name', imported after the flags are parsed.
      run: function, or 'module:name', imported after the config is checked.
    """
    preemption.started = time.monotonic()
    given, config = parse_args(argv, description, ENTRY_FLAGS)
    if given.verbose:
        logs.log.setLevel(logging.DEBUG)
    schema = _imported(schema)
    program = "finetune.py" if "task" in config else "train.py" if "objective" in config else ""
    if program and ("task" in config) != any(f.name == "task" for f in dataclasses.fields(schema)):
        raise ConfigError(
            f"{given.config} is a config of {program}: run python {program} --config=..."
        )
    if given.print_config:
        from training import print_config

        print_config.run(given, schema, config)
        return
    resolved = config_lib.resolve(schema, config)
    if not given.workdir:
        raise ConfigError("--workdir is missing; expected a run directory: --workdir=runs/NAME")
    if resolved.training.deterministic:
        make_deterministic()
    from training import hosts

    hosts.join()
    enable_compilation_cache()
    _imported(run)(config, given.workdir)


def parse_args(argv, description, extra=(), config="required", examples=""):
    """(namespace, ConfigDict with --config.key=value applied) from a command line.

    Args:
      argv: sys.argv[1:].
      description: its first line opens --help.
      extra: (flag, keyword arguments of argparse) of further flags.
      config: 'required' or 'optional'; the second value is None without --config.
      examples: lines for the end of --help, printed unchanged.

    Raises:
      ConfigError: a flag that does not exist (names the nearest), a missing --config, a bad config file.
    """
    needs_help = not {"-h", "--help"}.isdisjoint(argv)
    parser = Parser(
        description=description.splitlines()[0], allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{config_help()}\n\n{examples}".rstrip() if needs_help else "",
    )  # fmt: skip
    parser.add_argument(
        "--config", required=config == "required", metavar="FILE[:ARG]", help="config file"
    )
    parser.add_argument(
        "--print_config",
        nargs="?",
        const="complete",
        choices=("complete", "given"),
        help="print every config field with its help, and exit; given: without reading init_from",
    )
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")
    for flag, keywords in extra:
        parser.add_argument(flag, **keywords)
    assignments, rest = split_assignments(argv)
    given = parser.parse_args(rest)
    if given.config is None:
        if assignments:
            raise ConfigError(
                f"--config.{assignments[0][0]} changes a config; add --config=FILE[:ARG]"
            )
        return given, None
    return given, config_lib.override(config_lib.load_config_file(given.config), assignments)


def config_help():
    """The end of --help: the config files, and the sizes, recipes and presets that their ARG may name."""
    lines = [
        "--config.SECTION.KEY=VALUE sets a field of the config; --print_config lists all of them.",
        "",
        "config files:",
    ]
    for file in sorted((ROOT / "configs").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "def get_config(" in source:
            title = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            lines.append(f"  {file.relative_to(ROOT).as_posix():<36}  {title}")
    presets = runpy.run_path(str(ROOT / "models" / "presets.py"))  # the package would import JAX
    for title, table in (("size", "SIZES"), ("recipe", "RECIPES"), ("preset", "PRESETS")):
        names = textwrap.wrap(", ".join(presets[table]), 96, break_on_hyphens=False)
        lines += ["", f"{title}s (--config=configs/decoder.py:{title}=NAME):"]
        lines += [f"  {line}" for line in names]
    lines += [
        "",
        "objectives (--config=configs/decoder.py:objective=NAME): docs/objective_matrix.md",
    ]
    return "\n".join(lines)


def enable_compilation_cache():
    """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, by default in the user's cache."""
    import jax

    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
        os.environ.get("TRIPTYCH_CACHE") or os.path.expanduser("~/.cache/triptych"), "xla"
    )
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return directory


def make_deterministic():
    """Bit-equal reruns on a GPU; has an effect only before JAX uses a device."""
    flag = "--xla_gpu_deterministic_ops=true"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors. An unknown flag is reported before a missing one,
    which it may be a misspelling of. Every program uses it."""

    def parse_args(self, args=None, namespace=None):
        needed = [
            each for each in (*self._actions, *self._mutually_exclusive_groups) if each.required
        ]
        for each in needed:
            each.required = False
        try:
            _, unknown = super().parse_known_args(args)
        finally:
            for each in needed:
                each.required = True
        for flag, equals, value in (word.partition("=") for word in args or ()):
            if equals and value == "--" and flag in self._option_string_actions:
                self.error(f"argument {flag}: invalid value '--'")  # argparse would drop it
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)[:200]}{self._hint(unknown)}")
        return super().parse_args(args, namespace)

    def error(self, message):
        raise ConfigError(f"{message} (--help lists the flags)")

    def _hint(self, unknown):
        """'; did you mean --config?' for the first unknown word that looks like a flag."""
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        name, dot, field = f"--{word.partition('=')[0].lstrip('-')}".partition(".")
        flags = [flag for action in self._actions for flag in action.option_strings]
        takes_fields = "--config" in flags or "--config." in (self.epilog or "")
        if dot and takes_fields:  # --confg.model.num_layers, or --model.num_layers
            near = difflib.get_close_matches(name, ["--config"], 1, 0.7)
            return f"; did you mean --config.{field if near else f'{name[2:]}.{field}'}?"
        known = {flag.replace("-", "_"): flag for flag in flags}
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1)
        if near and not dot:
            return f"; did you mean {known[near[0]]}?"
        return "; fields of the config are --config.SECTION.KEY=VALUE" * takes_fields


def flags_parser(description, flags, examples=""):
    """A Parser of a program in tools/.

    Args:
      flags: ((name, keywords of add_argument), ...).
      examples: the end of --help.
    """
    parser = Parser(
        description=description.splitlines()[0], allow_abbrev=False, epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for flag, keywords in flags:
        parser.add_argument(flag, **keywords)
    return parser


def split_assignments(argv):
    """([(key, value)] of --config.key=value, the other words)."""
    assignments, rest, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        if word.startswith("--config."):
            key, equals, value = word[len("--config.") :].partition("=")
            if not equals:
                if not words or words[0].startswith("--"):
                    raise ConfigError(f"{word} has no value; write {word}=VALUE")
                value = words.pop(0)
            assignments.append((key, value))
        else:
            rest.append(word)
    return assignments, rest


def _imported(target):
    """The object of 'module:name'; anything but a string is returned unchanged."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _silence_threads():
    """Background threads of libraries print tracebacks of errors that the main thread reports."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    threading.excepthook = sys.unraisablehook = lambda report: None


def _leave(message, is_expected=True):
    """The line about the end of this process, which the other processes of its run get too."""
    hosts = sys.modules.get("training.hosts")
    return hosts.leave(message, is_expected) if hosts else message


def _print_error(message):
    if len(message) > 690:  # a value of the command line may have any length
        message = f"{message[:480]} ... {message[-200:]}"
    print(f"error: {message}", file=sys.stderr, flush=True)


def _is_closed(stream):
    """Whether `stream` is a pipe that nobody reads."""
    poll = select.poll()
    try:
        poll.register(stream, 0)
    except (OSError, ValueError, TypeError):  # None, or without a file descriptor, as in a notebook
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _exit(status):
    if sys.stdout is not None:
        sys.stdout.flush()
    jax = sys.modules.get("jax")
    if status in (1, 130) and jax and jax.distributed.is_initialized():
        os._exit(status)  # a normal exit would wait for the other processes
    sys.exit(status)
