"""Plans of studies, and the configs of the runs that they consist of.

Files in configs/studies/ fill in StudyConfig, files in configs/comparisons/ ComparisonConfig;
studies/runner.py executes the runs.
"""

import dataclasses
import re

from models.config import option
from training import config as configs

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
CONDITIONS = ("random", "embeddings", "pretrained")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """The options of every study: finetuning runs with label budgets, paired seeds and tuned learning rates.

    An override is 'key=value' as on the command line, without '--config.'. 'encoder: key=value' applies
    to the runs of one architecture (of one candidate in a comparison).
    """

    title: str = option("Pretraining study", "heading of the report")
    pretrain_overrides: tuple = option((), "'key=value' for every pretraining run")
    finetune_config: str = option(
        "configs/finetune/classification.py", "config file for finetuning"
    )
    finetune_overrides: tuple = option((), "'key=value' for every finetuning run")
    label_budgets: tuple = option((200,), "numbers of labeled examples to finetune on")
    seeds: tuple = option((0, 1, 2, 3, 4), "each fixes label subset, head, data order, dropout")
    learning_rate_grid: tuple = option((3e-4, 1e-3, 3e-3), "learning rates to try on validation")
    tuning_seeds: tuple = option((1000,), "seeds of the runs that learning rates are tuned with")
    keep_checkpoints: bool = option(False, "keep the checkpoints of the finetuning runs")
    replicas: bool = option(
        True, "train the seeds of a condition and label budget together, in one program"
    )

    def __post_init__(self):
        check_distinct(self, "label_budgets", "seeds", "learning_rate_grid", "tuning_seeds")
        for name, least in (("label_budgets", 1), ("seeds", 0), ("tuning_seeds", 0)):
            for value in getattr(self, name):
                if type(value) is not int or value < least:
                    raise ValueError(
                        f"{name} contains {value!r}; expected integers of at least {least}"
                    )
        if set(self.seeds) & set(self.tuning_seeds):
            raise ValueError(
                f"tuning_seeds={self.tuning_seeds!r} shares a seed with seeds={self.seeds!r}; learning "
                f"rates tuned on the label subsets of the study bias it; choose other tuning_seeds"
            )
        for text in (*self.pretrain_overrides, *self.finetune_overrides):
            parse_override(text, self.base_models)


@dataclasses.dataclass(frozen=True)
class StudyConfig(PlanConfig):
    """Pretrain each architecture once, then finetune it for every condition, label budget and seed."""

    architectures: tuple = option(ARCHITECTURES, "architectures to pretrain, in order")
    conditions: tuple = option(CONDITIONS, "conditions to compare; the first is the reference")
    pretrain_config: str = option("configs/{architecture}.py", "config file for pretraining")
    learning_rates: tuple = option(
        (), "(architecture, condition, label budget, learning rate), ...; budget 0: any other"
    )

    base_models = ARCHITECTURES

    def __post_init__(self):
        super().__post_init__()
        check_distinct(self, "architectures", "conditions")
        for row in self.learning_rates:
            if not isinstance(row, tuple) or len(row) != 4 or not isinstance(row[3], (int, float)):
                raise ValueError(
                    f"learning_rates contains {row!r}; expected (architecture, condition, label budget "
                    f"or 0, learning rate)"
                )
        rows = self.learning_rates
        for names, choices in (
            ((*self.architectures, *(row[0] for row in rows)), ARCHITECTURES),
            ((*self.conditions, *(row[1] for row in rows)), CONDITIONS),
        ):
            if unknown := [name for name in names if name not in choices]:
                raise ValueError(f"unknown {unknown[0]!r}; expected one of {', '.join(choices)}")

    def learning_rate(self, architecture, condition, label_budget):
        """The learning rate in the row of this label budget, else in the row of budget 0.

        Raises ValueError if there is neither; the message names the command that tunes one.
        """
        table = {row[:3]: float(row[3]) for row in self.learning_rates}
        for budget in (label_budget, 0):
            if (architecture, condition, budget) in table:
                return table[architecture, condition, budget]
        raise ValueError(
            f"learning_rates has no row for ({architecture!r}, {condition!r}, {label_budget}); expected "
            f"one, or one with label budget 0; tune it with python -m studies.tune --config=... --workdir=..."
        )


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(PlanConfig):
    """Pretrain candidates (objectives of one architecture) at equal FLOPs, then finetune each of them."""

    candidates: tuple = option(
        (), "((name, config file[:arg], 'key=value', ...), ...); the first is the reference"
    )
    num_steps: int = option(500, "steps of the first; the others get equal FLOPs", min=1)

    @property
    def base_models(self):
        return tuple(name for name, *_ in self.candidates)

    def __post_init__(self):
        valid = [each for each in self.candidates if isinstance(each, tuple) and len(each) >= 2]
        names = {slug(str(name)) for name, *_ in valid}
        if len(names) < 2 or len(names) < len(self.candidates):
            raise ValueError(
                f"candidates={self.candidates!r}; expected two or more of (name, config file, ...) with "
                f"distinct names"
            )
        for _, _, *overrides in self.candidates:
            for text in overrides:
                parse_override(text, ())
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One finetuning run of a study."""

    base_model: str  # the pretraining run that it starts from: an architecture or a candidate
    condition: str  # what it takes from there, one of CONDITIONS
    label_budget: int
    seed: int  # of label subset, head, data order and dropout
    learning_rate: float  # 0.0: not tuned yet

    def __str__(self):
        return (
            f"{self.base_model} · {self.condition} · {self.label_budget:,} labels · "
            f"lr {self.learning_rate:g} · seed {self.seed}"
        )

    @property
    def folder(self):
        """Run directory below the workdir: one level per coordinate, '*' for an unknown learning rate."""
        model, learning_rate = slug(self.base_model), self.learning_rate or "*"
        return f"finetune/{model}/{self.condition}/{self.label_budget}/{learning_rate}/seed={self.seed}"

    @property
    def group(self):
        """The cell with seed 0: the same for runs that differ in seed alone."""
        return dataclasses.replace(self, seed=0)


def study_cells(study, architecture):
    """The cells of one architecture; seeds outermost, so that an unfinished study is balanced."""
    return [
        Cell(architecture, condition, budget, seed, study.learning_rate(architecture, condition, budget))
        for seed in study.seeds
        for budget in study.label_budgets
        for condition in study.conditions
    ]  # fmt: skip


def tuning_cells(plan, base_model, conditions):
    """The learning rate grid of one pretraining run, the same for every condition."""
    return [
        Cell(base_model, condition, budget, seed, float(learning_rate))
        for learning_rate in plan.learning_rate_grid
        for budget in plan.label_budgets
        for condition in conditions
        for seed in plan.tuning_seeds
    ]


def pretrain_config(study, architecture):
    """ConfigDict of the pretraining run of one architecture, for train.run."""
    file = study.pretrain_config.format(architecture=architecture)
    return load(file, study.pretrain_overrides, architecture)


def candidate_config(comparison, candidate, num_steps, *overrides):
    """ConfigDict of the pretraining run of one candidate, for train.run."""
    name, file, *own = candidate
    texts = (*comparison.pretrain_overrides, *own, *overrides)
    return load(file, texts, name, ("training.duration", f"{num_steps} steps"))


def finetune_config(plan, cell, init_from, seeds=()):
    """ConfigDict of one cell, for finetune.run; or with `seeds` of the cells that differ in seed alone.

    init_from: run directory of the base model.
    """
    streams = ("init", "data", "dropout", "head")
    seed = [("seeds", seeds)] if seeds else [(f"seed.{stream}", cell.seed) for stream in streams]
    return load(
        plan.finetune_config.format(architecture=cell.base_model),
        plan.finetune_overrides,
        cell.base_model,
        ("init_from", str(init_from)),
        ("init", cell.condition),
        ("optimizer.learning_rate", cell.learning_rate),
        ("task.num_train_examples", cell.label_budget),
        *seed,
    )


def load(file, overrides, base_model, *assignments):
    """A config file with the overrides that apply to a base model, then with (key, value) pairs."""
    parsed = [parse_override(text) for text in overrides]
    applied = [(key, value) for prefix, key, value in parsed if prefix in ("", base_model)]
    return configs.override(configs.load_config_file(file), [*applied, *assignments])


def parse_override(text, base_models=None):
    """'encoder: a.b=1' -> ('encoder', 'a.b', '1'); 'a.b=1' -> ('', 'a.b', '1').

    Raises ValueError for another form, or a prefix that is not one of `base_models`.
    """
    left, equals, value = str(text).partition("=")
    prefix, colon, key = left.rpartition(":")
    unknown = colon and base_models is not None and prefix.strip() not in base_models
    if not equals or not key.strip() or unknown:
        prefixed = f" or '{base_models[0]}: key=value'" if base_models else ""
        raise ValueError(f"{text!r} is not an override; expected 'key=value'{prefixed}")
    return prefix.strip(), key.strip(), value.strip()


def check_distinct(plan, *names):
    for name in names:
        values = getattr(plan, name)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}={values!r} is empty or repeats a value; list each value once")


def pretrain_folder(name):
    """Run directory of a pretraining run below the workdir of a study."""
    return f"pretrain/{slug(name)}"


def slug(name):
    """A name as a directory name."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower())
