"""RunContents: what a run directory and a Hugging Face directory have in common, with lazy arrays.
convert.py reads one kind of directory and writes the other; electra_pair.py joins and splits runs.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from data.tokenizer import Tokenizer
from data.tokenizer import load as load_tokenizer
from models.adapters import ADAPTER_KEY, Adapter, modules_of
from models.config import ModelConfig
from training import run_directory
from training.checkpoint import LazyArray, params_metadata, read_params, write_params
from training.config import ConfigError
from training.init_from import read_adapter
from training.param_rules import flatten_params, unflatten_params


@dataclasses.dataclass(frozen=True)
class RunContents:
    """One checkpoint of a run and all that a conversion needs to know about it.

    Attributes:
      name: for messages: a run and its step, or a Hugging Face directory.
      model_config: every zero filled in.
      arrays: {parameter path: LazyArray}, float32.
      labels: class names of a task head.
      origin: manifest["huggingface"]: the directory that was imported, its class and dtypes; of a run
        that was trained from one, manifest["published"]: its other keys and options of generation.
      config: the run's resolved config.
      adapter, own: the adapter, and its arrays {path below adapter/: array}.
    """

    name: str
    model_config: ModelConfig
    arrays: dict[str, LazyArray]
    tokenizer: Tokenizer
    labels: list[str]
    origin: dict
    config: dict
    adapter: Adapter = Adapter()
    own: dict = dataclasses.field(default_factory=dict)

    def merged(self) -> "RunContents":
        """The same function with plain parameters; itself if there is no adapter.

        Raises ConfigError for an adapter that is not a change of weights."""
        if not self.own:
            return self
        if self.adapter.not_merged_because:
            raise ConfigError(
                f"the adapter ({self.adapter.name}) of {self.name} cannot be merged into the model: "
                f"{self.adapter.not_merged_because}; keep the run as it is"
            )
        arrays = dict(self.arrays)
        for module, own in modules_of(unflatten_params(self.own)).items():
            leaves = {
                name: self.arrays[f"{module}/{name}"]
                for name in ("kernel", "bias")
                if f"{module}/{name}" in self.arrays
            }
            for name, leaf in leaves.items():
                read = functools.partial(_merged, self.adapter, leaves, own, name)
                arrays[f"{module}/{name}"] = LazyArray(leaf.shape, read)
        config = {**self.config, "adapter": {"name": Adapter.name}}
        return dataclasses.replace(self, arrays=arrays, config=config, adapter=Adapter(), own={})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: array.shape for path, array in self.arrays.items()}

    @property
    def heads(self) -> list[str]:
        return sorted({path.split("/")[1] for path in self.arrays if path.startswith("heads/")})


def load_run(run: pathlib.Path, step: int) -> RunContents:
    """Reads a checkpoint's run; the arrays remain on disk, but for those of an adapter."""
    arrays = _lazy_params(run, step)
    own = {path.removeprefix(f"{ADAPTER_KEY}/"): arrays.pop(path).read()
           for path in sorted(arrays) if path.startswith(f"{ADAPTER_KEY}/")}  # fmt: skip
    record, manifest = run_directory.read_config(run), run_directory.read_manifest(run)
    return RunContents(
        name=f"{run} at step {step}",
        model_config=run_directory.read_model_config(run),
        arrays=arrays,
        tokenizer=load_tokenizer(run / "tokenizer.json"),
        labels=manifest.get("labels", []),
        origin=manifest.get("huggingface") or manifest.get("published", {}),
        config=record["config"],
        adapter=read_adapter(run),
        own=own,
    )


def _merged(adapter, leaves, own, name):
    leaves = {each: leaf.read() for each, leaf in leaves.items()}
    return np.asarray(adapter.merge(leaves, own)[name], np.float32)


def save_run(contents: RunContents, run: pathlib.Path) -> None:
    """Writes a run directory like one of train.py at step 0."""
    run.mkdir(parents=True, exist_ok=True)
    own = {f"{ADAPTER_KEY}/{path}": array for path, array in contents.own.items()}
    write_params(run, 0, unflatten_params(contents.arrays | own))
    contents.tokenizer.save(run / "tokenizer.json")
    extra = {"tokenizer": contents.tokenizer.fingerprint, "huggingface": contents.origin}
    if contents.labels:
        extra["labels"] = contents.labels
    run_directory.write_manifest(run, contents.config, extra)
    run_directory.write_config(run, contents.config, "pretrain", contents.model_config)


def _lazy_params(run, step):
    """{path: LazyArray}; reading one loads its layer to the host, where one layer is kept."""
    found, loaded = params_metadata(run, step), {}
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def layer_of(path):
        return path.split("/")[:-1][:2]

    def read(path):
        if path not in loaded:
            loaded.clear()
            target = {
                each: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=device)
                for each, leaf in found.items()
                if layer_of(each) == layer_of(path)
            }
            params = read_params(run / "checkpoints", step, unflatten_params(target))
            loaded.update(flatten_params(params))
        return np.asarray(loaded[path])

    return {
        path: LazyArray(leaf.shape, functools.partial(read, path)) for path, leaf in found.items()
    }
