"""`python -m tools.sweep --config=configs/sweeps/NAME.py --workdir=DIR`: many runs, one table.

The same command continues a sweep: a finished run is not run again, an unfinished one resumes.
"""

import sys

from training import cli

FLAGS = (
    ("--config", {"required": True, "metavar": "FILE[:ARG]", "help": "sweep file"}),
    ("--workdir", {"required": True, "help": "directory of the sweep, with all of its runs"}),
    ("--dry_run", {"action": "store_true", "help": "print every command; run and write nothing"}),
    ("--report", {"action": "store_true", "help": "write the report of the runs that have finished"}),
    (
        "--executor",
        {"default": "local", "choices": ("local", "slurm", "print"),
         "help": "processes of this machine, arrays of Slurm, or commands to run elsewhere"},
    ),
    ("--jobs", {"type": int, "default": 0, "help": "commands at a time (1; 32 of Slurm)"}),
    (
        "--pin",
        {"default": "auto", "choices": ("auto", "none", "cores", "gpu", "tpu"),
         "help": "what each of several jobs has alone: cores (auto), or one device"},
    ),
    (
        "--replicas",
        {"type": int, "default": 16,
         "help": "finetuning runs that differ in seed and learning rate become one program, of at most so "
                 "many; 1: one by one (16)"},
    ),
    ("--metric",
     {"default": "", "help": "compared metric, such as test/accuracy; '-' in front: lower is better"}),
    ("--baseline",
     {"default": "", "metavar": "KEY=VALUE,...", "help": "runs that the others are compared with"}),
    (
        "--halving",
        {"type": int, "default": 0, "metavar": "N",
         "help": "successive halving: at each rung, 1 in N candidates continues"},
    ),
    (
        "--stale",
        {"default": "refuse", "choices": ("refuse", "keep", "redo"),
         "help": "runs whose config has changed: an error, left out, or moved away and run again"},
    ),
    (
        "--slurm",
        {"default": "", "metavar": "NAME=VALUE,...",
         "help": "options of submitit, such as partition=gpu,gpus_per_node=1"},
    ),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
EXAMPLES = """examples:
  python -m tools.sweep --config=configs/sweeps/learning_rate.py --workdir=runs/lr --dry_run
  python -m tools.sweep --config=configs/sweeps/three_ways.py --workdir=runs/quickstart --jobs=2
  python -m tools.sweep --config=FILE --workdir=DIR --executor=slurm --slurm=partition=gpu,gpus_per_node=1
  python -m tools.sweep --config=FILE --workdir=DIR --executor=print > commands.txt"""


def main(argv):
    """The command line of this file."""
    given = cli.flags_parser(__doc__, FLAGS, EXAMPLES).parse_args(argv)
    from sweeps import session  # imports JAX: not for --help

    session.run(given)


if __name__ == "__main__":
    # other programs read its output
    prints = {"--dry_run", "--executor=print", "print"} & set(sys.argv)
    cli.main(main, console=sys.stderr if prints else None, resumes=True)
