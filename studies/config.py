"""StudyConfig: the plan of a study, and the two kinds of run configuration it expands to.

Read by studies/three_ways.py and studies/tune.py; files under configs/studies/ fill it in.
"""

import dataclasses

from models.config import knob
from training import config as configs

ARMS = ("none", "embeddings", "all")
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Pretrain each architecture once, finetune every (arm, budget, seed) from it.

    `pretrain` and `finetune` hold 'key=value' for the files below, in the words of the command line
    without '--config.'; 'encoder: key=value' concerns one architecture.
    """

    title: str = knob("Pretraining three ways", "heading of the report")
    architectures: tuple = knob(ARCHITECTURES, "which architectures, in order")
    arms: tuple = knob(
        ARMS, "what finetuning starts from; the first is what others are compared with"
    )
    budgets: tuple = knob((100, 1000), "numbers of labelled examples")
    seeds: tuple = knob((0, 1, 2), "one pair per seed: label subset, head, order, dropout")
    pretrain_config: str = knob("configs/{architecture}.py", "file of the pretraining runs")
    finetune_config: str = knob("configs/finetune/classification.py", "file of the finetuning runs")
    pretrain: tuple = knob((), "'key=value' for every pretraining run")
    finetune: tuple = knob((), "'key=value' for every finetuning run")
    rates: tuple = knob(
        (), "(architecture, arm, labels, learning rate); labels 0: every budget without its own row"
    )
    grid: tuple = knob((3e-4, 1e-3, 3e-3), "rates that studies.tune tries for every arm")
    tune_seeds: tuple = knob((1000, 1001), "seeds of studies.tune, apart from those of the study")
    keep_checkpoints: bool = knob(False, "keep the finetuned parameters of every cell")

    def __post_init__(self):
        for name in ("architectures", "arms", "budgets", "seeds", "grid", "tune_seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(
                    f"{name}={values!r} is empty or repeats a value; list each one once"
                )
        _known("architectures", self.architectures, ARCHITECTURES)
        _known("arms", self.arms, ARMS)
        for name, least in (("budgets", 1), ("seeds", 0), ("tune_seeds", 0)):
            wrong = [
                value for value in getattr(self, name) if type(value) is not int or value < least
            ]
            if wrong:
                raise ValueError(f"{name} has {wrong[0]!r}; expected integers of at least {least}")
        if set(self.seeds) & set(self.tune_seeds):
            raise ValueError(
                f"tune_seeds={self.tune_seeds!r} shares a seed with seeds={self.seeds!r}; rates tuned on "
                f"the study's own label subsets would flatter it; choose others"
            )
        for row in self.rates:
            if not isinstance(row, tuple) or len(row) != 4 or not isinstance(row[3], (int, float)):
                raise ValueError(
                    f"rates has {row!r}; expected (architecture, arm, labels or 0, learning rate)"
                )
            _known("rates", row[:1], ARCHITECTURES)
            _known("rates", row[1:2], ARMS)
        for text in (*self.pretrain, *self.finetune):
            _assignment(text)

    def rate(self, architecture, arm, budget):
        """The learning rate of a cell: the row of its budget, else the row of budget 0.

        Raises ValueError where neither is there, naming the command that finds one.
        """
        table = {row[:3]: float(row[3]) for row in self.rates}
        for labels in (budget, 0):
            if (architecture, arm, labels) in table:
                return table[architecture, arm, labels]
        raise ValueError(
            f"rates has no row for ({architecture!r}, {arm!r}, {budget}); expected one, or one with "
            f"labels 0; find it by python -m studies.tune --config=... --workdir=..."
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One finetuning run of a study."""

    architecture: str
    arm: str
    budget: int
    seed: int
    rate: float
    root: str = "finetune"

    def __str__(self):
        return f"{self.architecture} · {self.arm} · {self.budget} labels · seed {self.seed}"

    @property
    def record(self):
        """Name of the cell's record, without '.json'."""
        return self.folder.replace("/", "-")

    @property
    def folder(self):
        """Relative path of the run: one folder level per coordinate."""
        return f"{self.root}/{self.architecture}/{self.arm}/{self.budget}/{self.seed}"


def cells(config, architecture):
    """The cells of one architecture; seeds outermost, so that what is there early is balanced."""
    return [
        Cell(architecture, arm, budget, seed, config.rate(architecture, arm, budget))
        for seed in config.seeds
        for budget in config.budgets
        for arm in config.arms
    ]


def pretrain_run(config, architecture):
    """ConfigDict of the pretraining run of one architecture, for train.run."""
    base = configs.load_file(config.pretrain_config.format(architecture=architecture))
    return configs.override(base, _assignments(config.pretrain, architecture))


def finetune_run(config, cell, pretrained):
    """ConfigDict of one cell, for finetune.run; `pretrained` is the run directory it starts from."""
    base = configs.load_file(config.finetune_config.format(architecture=cell.architecture))
    return configs.override(
        base,
        [
            *_assignments(config.finetune, cell.architecture),
            ("init_from", str(pretrained)),
            ("transfer", cell.arm),
            ("optimizer.learning_rate", cell.rate),
            ("task.examples", cell.budget),
            *((f"seed.{stream}", cell.seed) for stream in ("init", "order", "dropout", "head")),
        ],
    )


def _assignments(texts, architecture):
    parsed = [_assignment(text) for text in texts]
    return [(key, value) for only, key, value in parsed if only in ("", architecture)]


def _assignment(text):
    """'encoder: a.b=1' -> ('encoder', 'a.b', '1'); without the prefix the first is ''."""
    left, equals, value = str(text).partition("=")
    only, colon, key = left.rpartition(":")
    if not equals or not key.strip() or (colon and only.strip() not in ARCHITECTURES):
        raise ValueError(
            f"{text!r} is not an override; expected 'key=value' or 'encoder: key=value'"
        )
    return only.strip(), key.strip(), value.strip()


def _known(name, values, choices):
    for value in values:
        if value not in choices:
            raise ValueError(f"{name} has {value!r}; expected one of {', '.join(choices)}")
