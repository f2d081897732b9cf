"""`python -m studies.landscape --runs RUN RUN... --output=DIR`: why finetuning of pretrained models works.

Loss along lines and on planes between the parameters of finetuned runs, distances, curvature, curves.
"""

from training import cli
from training.config import ConfigError

FLAGS = (
    ("--runs", {"nargs": "+", "required": True, "metavar": "RUN",
                "help": "two or more runs of finetune.py, RUN or RUN@STEP, of one model, task and data"}),
    ("--output", {"required": True, "metavar": "DIR", "help": "new directory for the report"}),
    ("--num_examples", {"type": int, "default": 512, "metavar": "N",
                        "help": "examples of train and of validation per point; 0: all"}),
    ("--batch_size", {"type": int, "default": 0, "metavar": "N",
                      "help": "examples of a batch; 0: as in the run's evaluation"}),
    ("--points", {"type": int, "default": 21, "metavar": "N", "help": "points of a line"}),
    ("--grid", {"type": int, "default": 15, "metavar": "N", "help": "N x N points of a plane; 0: no planes"}),
    ("--probes", {"type": int, "default": 10, "metavar": "N",
                  "help": "Hessian products for the trace; 0: no trace"}),
    ("--lanczos_steps", {"type": int, "default": 20, "metavar": "N",
                         "help": "Hessian products for the top eigenvalue; 0: no eigenvalue"}),
    ("--seed", {"type": int, "default": 0, "metavar": "N", "help": "of the examples and of random vectors"}),
    ("--debug", {"action": "store_true", "help": "print a traceback for an error"}),
)  # fmt: skip
LEAST = {
    "num_examples": 0,
    "batch_size": 0,
    "points": 2,
    "grid": 0,
    "probes": 0,
    "lanczos_steps": 0,
    "seed": 0,
}
EXAMPLES = """examples:
python -m studies.landscape --runs runs/random runs/pretrained --output=runs/landscape
python -m studies.landscape --runs runs/enc/seed=0 runs/enc/seed=1 runs/enc/seed=2 --output=runs/basins"""


def main(argv):
    """The command line of this file."""
    given = cli.flags_parser(__doc__, FLAGS, EXAMPLES).parse_args(argv)
    for name, least in LEAST.items():
        if getattr(given, name) < least:
            raise ConfigError(f"--{name}={getattr(given, name)}: expected at least {least}")
    if given.grid == 1:
        raise ConfigError("--grid=1 is a point: expected at least 2, or 0 for no planes")
    from studies import landscape_study

    cli.enable_compilation_cache()
    landscape_study.run(given)


if __name__ == "__main__":
    cli.main(main)
