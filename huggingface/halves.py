"""ELECTRA's two halves: a run of replaced-token detection as two Hugging Face directories, and back.
Beside huggingface/convert.py, which does each half: the discriminator in DIR, its generator in
DIR/generator, as two runs of one network each, which share the tables.
"""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from data import tokenizer as tokenizers
from models.config import SILENT, ModelConfig, explicit
from objectives.replaced_token_detection import ReplacedTokenDetection
from training import checkpoint, paths, rules, run_directory
from training.config import ConfigError

INSIDE = "generator"  # of the directory there; of the parameters here
_CLASSES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}


def are_in(source) -> bool:
    """Whether a Hugging Face directory has a generator beside its network."""
    return (pathlib.Path(source) / INSIDE / "config.json").is_file()


def join(source, workdir, from_hf) -> str:
    """Makes one run of the two directories; `from_hf(directory, run)` makes a run of one.

    Raises ConfigError where the two are not a pair that objective replaced_token_detection trains: other
    classes, another tokenizer, tables that differ, a generator that is no share of its discriminator.
    """
    folder, source = paths.of(workdir), pathlib.Path(source)
    with tempfile.TemporaryDirectory() as room:
        runs = {name: f"{room}/{name}" for name in _CLASSES}
        for name, directory in (("discriminator", source), ("generator", source / INSIDE)):
            from_hf(str(directory), runs[name])
            made = run_directory.read_manifest(runs[name])["huggingface"]["class"]
            if made != _CLASSES[name]:
                raise ConfigError(
                    f"{directory} is a {made}; expected {_CLASSES[name]}, as the {name} of ELECTRA"
                )
        found = {name: _parameters(run, 0) for name, run in runs.items()}
        networks = {name: _network(run) for name, run in runs.items()}
        size = _share(networks["discriminator"], networks["generator"], source)
        _check_shared(found, runs, source)
        own = {
            f"{INSIDE}/{path}": leaf
            for path, leaf in found["generator"].items()
            if not path.startswith("embed/")
        }
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_params(folder, 0, rules.merge(found["discriminator"] | own, {}))
        _files(runs["discriminator"], folder)
        manifest = run_directory.read_manifest(runs["discriminator"])
        origin = run_directory.read_manifest(runs["generator"])["huggingface"]
        for half, directory in ((manifest["huggingface"], source), (origin, source / INSIDE)):
            half["source"] = str(directory)
        manifest["huggingface"][INSIDE] = origin | {"size": size}
        run_directory.write_json(folder / "manifest.json", manifest)
    return (
        f"discriminator and generator of {source}: replaced_token_detection goes on with them by "
        f"--config.objective.generator_size={size:g}"
    )


def part(folder, step, record, manifest, directory, to_hf) -> str:
    """Writes a run with a generator as two directories; `to_hf(run, directory, architecture)` writes
    one. Arguments are those of a run as convert.to_hf has read it."""
    origin = dict(manifest.get("huggingface", {}))
    half = origin.pop(INSIDE, {})
    size = half.pop("size", None) or record["config"]["objective"]["generator_size"]
    model = ModelConfig(**record["model"])
    generator = ReplacedTokenDetection(generator_size=size).generator(model)
    found = _parameters(folder, step)
    own = {p.removeprefix(f"{INSIDE}/"): leaf for p, leaf in found.items() if p.startswith(INSIDE)}
    shared = {path: leaf for path, leaf in found.items() if path.startswith("embed/")}
    rest = {path: leaf for path, leaf in found.items() if not path.startswith(INSIDE)}
    targets = {"discriminator": str(directory), "generator": f"{directory}/{INSIDE}"}
    halves = {"discriminator": (model, rest, origin), "generator": (generator, shared | own, half)}
    said = []
    with tempfile.TemporaryDirectory() as room:
        for name, (network, params, origin) in halves.items():
            run = paths.of(f"{room}/{name}")
            run.mkdir()
            checkpoint.write_params(run, 0, rules.merge(params, {}))
            _files(folder, run)
            run_directory.write_json(run / "manifest.json", manifest | {"huggingface": origin})
            run_directory.record_run(run, record["config"], record["kind"], network)
            said.append(to_hf(str(run), targets[name], _CLASSES[name]).partition(" of ")[0])
    return f"{' and '.join(said)} of {folder} at step {step}"


def _network(run):
    return ModelConfig(**run_directory.read_config(paths.of(run))["model"])


def _parameters(run, step):
    """{path: an array of a checkpoint, read when it is wanted}."""
    run = paths.of(run)
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def read(path, shape):
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
        tree = checkpoint.read_params(run / "checkpoints", step, rules.merge({path: leaf}, {}))
        return np.asarray(rules.paths(tree)[path])

    return {
        path: checkpoint.Deferred(leaf.shape, functools.partial(read, path, leaf.shape))
        for path, leaf in checkpoint.params_metadata(run, step).items()
    }


def _share(discriminator, generator, source):
    """The generator_size by which a discriminator has this generator. Raises ConfigError if none."""
    size = generator.width / discriminator.width
    made = explicit(ReplacedTokenDetection(generator_size=size).generator(discriminator))
    wrong = [
        f"{name}={getattr(explicit(generator), name)!r} (expected {getattr(made, name)!r})"
        for name in made.__dataclass_fields__
        if name not in SILENT and getattr(explicit(generator), name) != getattr(made, name)
    ]
    if wrong:
        raise ConfigError(
            f"the generator in {source}/{INSIDE} is no share of its discriminator: {', '.join(wrong)}; "
            f"convert the two apart, each into a run"
        )
    return size


def _check_shared(found, runs, source):
    """Raises ConfigError unless the halves have one tokenizer and the same tables."""
    prints = {tokenizers.load(f"{run}/tokenizer.json").fingerprint for run in runs.values()}
    tables = [
        {path: leaf for path, leaf in found[name].items() if path.startswith("embed/")}
        for name in _CLASSES
    ]
    differ = ["tokenizer"] if len(prints) > 1 else []
    differ += [
        path
        for path, leaf in tables[0].items()
        if path not in tables[1] or not np.array_equal(leaf.read(), tables[1][path].read())
    ]
    if differ:
        raise ConfigError(
            f"{source} and its {INSIDE} differ in {', '.join(differ)}, which the two share here; convert "
            f"them apart, each into a run"
        )


def _files(run, folder):
    """Copies what a run says of itself and its tokenizer."""
    for file in paths.of(run).glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
