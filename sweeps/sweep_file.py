"""What `get_sweep(arg)` of a sweep file returns: a Sweep over the runs of one stage, or of a pipeline.

    pretraining = train("configs/encoder.py:size=tiny", fixed(duration="400 steps"))
    Sweep(finetune("configs/finetune/classification.py", grid(seed=range(5)), init_from=pretraining))

Imports no JAX; sweeps/plan.py turns it into runs.
"""

import dataclasses
import difflib

from sweeps.algebra import Space, dotted

PROGRAMS = {"train.py": "pretrain", "finetune.py": "finetune"}  # program -> name of its stage


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """Runs of one program.

    Attributes:
      program: 'train.py' or 'finetune.py'.
      config: config file[:arg]; '': each point names it by the key `config`.
      space: Space of overrides; or a function of the Point of the run of `parent` that returns one.
      parent: Stage whose runs these start from, one set of runs for each; None: the config says.
    """

    program: str
    config: str
    space: object
    parent: object = None

    @property
    def chain(self):
        """The stages from the first to this one."""
        return [*(self.parent.chain if self.parent else ()), self]

    @property
    def name(self):
        """'pretrain', or 'pretrain2' for the second of its kind in a chain: the folder of its runs."""
        before = sum(stage.program == self.program for stage in self.chain)
        return PROGRAMS[self.program] + (str(before) if before > 1 else "")

    def points(self, parent):
        """The Space for a parent's Point (None without a parent). Raises ValueError for anything else."""
        space = self.space
        if callable(space):
            space = space(parent)
        if not isinstance(space, Space):
            raise ValueError(
                f"{self.program}: {space!r} is not a space of overrides; expected grid(...), fixed(...), ..."
            )
        return space


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
      stage: the last Stage: its runs are compared.
      title: heading of the report.
      metric: such as 'validation/loss' or 'test/accuracy'; a leading '-' or '+' says that lower or higher
        is better. '': the validation metric of the task.
      baseline: {key: value} of the runs that the others are compared with, seed by seed.
      tuned: keys such as 'lr': of the points that differ in them alone, the one that is best on validation
        is in the table and is compared.
    """

    stage: Stage
    title: str = "Sweep"
    metric: str = ""
    baseline: dict = dataclasses.field(default_factory=dict)
    tuned: tuple = ()

    def __post_init__(self):
        if not isinstance(self.stage, Stage):
            raise ValueError(
                f"Sweep({self.stage!r}): expected train(...) or finetune(...) as the first argument"
            )
        if not isinstance(self.baseline, dict):
            raise ValueError(
                f"baseline={self.baseline!r}: expected a dict such as {{'init': 'random'}}"
            )
        if not isinstance(self.tuned, (list, tuple)):
            raise ValueError(f"tuned={self.tuned!r}: expected a list of keys such as ['lr']")
        object.__setattr__(self, "baseline", {dotted(k): v for k, v in self.baseline.items()})
        object.__setattr__(self, "tuned", tuple(map(dotted, self.tuned)))


def train(config="", space=None, /, *, init_from=None):
    """Runs of train.py; see Stage. `init_from`: a Stage of train.py that they continue from."""
    return _stage("train.py", config, space, init_from)


def finetune(config="", space=None, /, *, init_from=None):
    """Runs of finetune.py; see Stage. `init_from`: the Stage that they start from."""
    return _stage("finetune.py", config, space, init_from)


def _stage(program, config, space, parent):
    # train(grid(config=[...]))
    if space is None and (isinstance(config, Space) or callable(config)):
        config, space = "", config
    if not isinstance(config, str):
        raise ValueError(
            f"{program}: config={config!r}; expected a config file such as configs/encoder.py"
        )
    if parent is not None and not isinstance(parent, Stage):
        raise ValueError(
            f"{program}: init_from={parent!r}; expected a stage, such as train(...); the directory of a run "
            f"is an override: fixed(init_from='runs/enc')"
        )
    if callable(space) and parent is None:
        raise ValueError(f"{program}: a function of the earlier run needs init_from=train(...)")
    return Stage(program, config, Space() if space is None else space, parent)


def nearest(word, words):
    """'; did you mean X?' for the nearest of the words, or the words."""
    near = difflib.get_close_matches(str(word), [str(each) for each in words], 1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(map(str, words))}"
