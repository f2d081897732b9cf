"""The places of the frozen parameters of a run: its checkpoints hold trained parameters only.

Those that init_from brought unchanged remain in its run; the others are saved once, in RUN/frozen.
`RUN/frozen.json` lists both, with a fingerprint of each array. Read by training/checkpoint.py.
"""

import dataclasses
import hashlib
import json
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from training import paths
from training.config import ConfigError
from training.sharding import is_main_process

FILE, OWN = "frozen.json", "frozen"  # in the run directory


@dataclasses.dataclass(frozen=True)
class Reference:
    """Parameters of a run that a checkpoint of another run directory holds.

    Attributes:
      places: the other run directory: its absolute path, and its path from the run, in case that both
        were moved. The first that exists is read.
      step: the checkpoint.
      use_ema: averaged parameters are read where it has them.
      names: {path here: path there}.
      fingerprints: {path here: digest of the array}.
    """

    places: tuple
    step: int
    use_ema: bool
    names: dict
    fingerprints: dict = dataclasses.field(default_factory=dict)

    def folder(self, run):
        """The run directory that is read."""
        found = [
            paths.of(place)
            if paths.remote(place) or os.path.isabs(place)
            else paths.of(run) / place
            for place in self.places
        ]
        return next((each for each in found if (each / "checkpoints").is_dir()), found[0])

    def of(self, run, params) -> "Reference":
        """That of the run directory `run` to {path here: array} alone, with fingerprints."""
        places = list(self.places)
        if os.path.isabs(places[0]) and not paths.remote(run):
            places.append(os.path.relpath(places[0], paths.absolute(run)))
        names = {path: self.names[path] for path in params}
        fingerprints = {path: fingerprint(array) for path, array in params.items()}
        return Reference(tuple(places), self.step, self.use_ema, names, fingerprints)

    def select(self, there) -> dict:
        """{path here: leaf} out of {path there: leaf}."""
        if missing := sorted(set(self.names.values()) - there.keys()):
            raise ConfigError(f"{missing[0]} is missing in it")
        return {path: there[name] for path, name in self.names.items()}

    def verified(self, there, names) -> dict:
        """{path here: array} for the paths `names`, out of {path there: array}, with their fingerprints."""
        found = {path: there[self.names[path]] for path in names}
        for path, leaf in found.items():
            if not isinstance(leaf, jax.Array) or fingerprint(leaf) != self.fingerprints[path]:
                raise ConfigError(f"{self.names[path]} in it has changed")
        return found


def fingerprint(array) -> str:
    """Digest of an array's dtype, shape and bytes; every process calls it for a sharded array."""
    if not getattr(array, "is_fully_addressable", True):
        array = multihost_utils.process_allgather(array, tiled=True)
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(array.view(np.uint8).reshape(-1) if array.size else b"")
    return digest.hexdigest()[:32]


def references(run) -> tuple[Reference, ...]:
    """The references in a run's frozen.json, () without one. Raises ConfigError if it is not readable."""
    path = paths.of(run) / FILE
    if not path.exists():
        return ()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["references"]
        return tuple(Reference(**{**entry, "places": tuple(entry["places"])}) for entry in entries)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is not readable ({error}); restore it") from error


def write(run, found) -> None:
    """Writes the references into frozen.json."""
    if is_main_process():
        entries = [dataclasses.asdict(reference) for reference in found]
        text = json.dumps({"references": entries}, indent=1) + "\n"
        paths.write_text(paths.of(run) / FILE, text)
