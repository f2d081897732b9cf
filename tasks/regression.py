"""Regression: one number per text, or per pair of texts, for all three architectures."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data import labeled, targets
from data.examples import Column, read
from models.config import option
from tasks import predictions
from tasks.metrics import LOWER_IS_BETTER, VALUE_METRICS, scores
from tasks.pooled_task import LoadedPooledTask, PooledTask, TextColumns


@dataclasses.dataclass(frozen=True)
class Regression(TextColumns, PooledTask):
    """One number per text, or per pair of texts."""

    name: ClassVar[str] = "regression"
    hf_problem_type: ClassVar[str] = "regression"
    hf_head_needs: ClassVar[dict] = {"standardize": False}
    head_fields: ClassVar[tuple[str, ...]] = (*PooledTask.head_fields, "standardize")

    metric: str = option("pearson", "chooses the best checkpoint", choices=tuple(VALUE_METRICS))
    loss: str = option(
        "mse",
        "mean squared error, or Huber's: linear for errors over 1 (over one standard deviation)",
        choices=("mse", "huber"),
    )
    standardize: bool = option(
        True,
        "the head learns (value - mean) / standard deviation of the train split; predictions are values",
    )

    def example_columns(self):
        self.check_columns()
        columns = labeled.text_columns(self.text_column, self.text_pair_column)
        value = Column(self.label_column, "label_column", targets.as_value, is_label=True)
        return columns | {"value": value}

    def read(self, log=lambda line: None):
        splits = read(self.source, self.example_columns(), self.dialect, self.missing, log=log)
        train = splits["train"]
        targets.check_values(train.get("value"), labeled.files_of(train))
        return labeled.complete(self.source, splits, (), self.validation_fraction, log)

    def encode(self, examples, tokenizer, template, label_names, architecture):
        encoded = super().encode(examples, tokenizer, template, label_names, architecture)
        values = examples.get("value") or [np.nan] * len(encoded)
        return dataclasses.replace(encoded, labels=np.array(values, np.float32))

    def frozen_patterns(self, architecture):
        return (f"heads/{self.name}/units/.*",)

    def loaded_fields(self, label_names, model_config, encoded, examples):
        fields = {"loss": self.loss, "standardize": self.standardize}
        if self.standardize and "train" in encoded:
            values = encoded["train"].labels.astype(np.float64)
            fields |= {"mean": float(values.mean()), "std": float(values.std()) or 1.0}
        return self.pooled_fields(1, model_config) | fields


@dataclasses.dataclass(frozen=True)
class LoadedRegression(LoadedPooledTask):
    """A labeled set of numbers, encoded.

    With `standardize`, heads/regression/units holds the mean and the standard deviation with which the
    head's output z is the value z * std + mean: a checkpoint needs nothing else to predict values, and an
    export multiplies them into the head. They are not trained.
    """

    loss: str = "mse"
    standardize: bool = False
    mean: float = 0.0  # of all training values, whatever the label budget
    std: float = 1.0

    name = Regression.name

    @property
    def best_metric(self):
        return f"{'-' if self.task.metric in LOWER_IS_BETTER else '+'}{self.task.metric}"

    def init(self, rngs, model):
        params = super().init(rngs, model)
        if self.standardize:
            units = {"mean": self.mean, "std": self.std}
            params["heads"][self.name]["units"] = {
                name: jnp.full(1, value, jnp.float32) for name, value in units.items()
            }
        return params

    def _units(self, params) -> tuple[jax.Array, jax.Array]:
        """(mean, standard deviation), float32[] each."""
        if not self.standardize:
            return jnp.float32(0), jnp.float32(1)
        units = jax.lax.stop_gradient(params["heads"][self.name]["units"])
        return units["mean"][0], units["std"][0]

    def outputs(self, model, params, batch, dropout_rng=None):
        """The predicted values float32[B]."""
        mean, std = self._units(params)
        return super().outputs(model, params, batch, dropout_rng)[:, 0] * std + mean

    def losses(self, model, params, batch, dropout_rng):
        found = super().outputs(model, params, batch, dropout_rng)[:, 0]
        mean, std = self._units(params)
        wanted, weights = (batch.targets[:, 0] - mean) / std, batch.loss_weights[:, 0]
        error = optax.huber_loss if self.loss == "huber" else optax.squared_error
        return {self.name: ((error(found, wanted) * weights).sum(), weights.sum())}

    def loss_denominators(self, batch):
        return {self.name: batch.loss_weights.sum()}

    def targets(self, split, indices):
        chosen, real = self.without_padding(indices)
        values = self.encoded[split].labels[chosen][:, None]
        known = real[:, None] & np.isfinite(values)
        return np.where(known, values, 0).astype(np.float32), known.astype(np.float32)

    def score(self, split, predictions):
        values = self.encoded[split].labels
        if not np.isfinite(values).all():
            return {}
        return scores(VALUE_METRICS, values, predictions)

    def constant_output(self):
        return self.encoded["train"].labels.mean()

    def prediction_rows(self, split, outputs):
        return predictions.value_rows(self.encoded[split].labels, outputs)

    name_of_target = staticmethod("{:g}".format)

    def describe_labels(self):
        values = self.encoded["train"].labels if "train" in self.encoded else np.zeros(1)
        return (
            f"values from {values.min():g} to {values.max():g}, mean {values.mean():.4g}, standard "
            f"deviation {values.std():.4g}"
        )


Regression.loaded_type = LoadedRegression
