"""TPU slices as Cloud TPU, GKE and SkyPilot name them, from the names of tools.plan (v5e:4x4).

Sources: docs.cloud.google.com/tpu/docs/runtimes and /regions-zones, and
docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (machine types, topologies).
"""

import dataclasses
import math
import re

from training.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Kind:
    """A TPU version.

    Attributes:
      accelerator: accelerator type of Cloud TPU before the count; '' if it has none here.
      count: what the accelerator type counts, per chip.
      runtime: software version of a TPU VM.
      gke: value of the node selector cloud.google.com/gke-tpu-accelerator.
      axes: of a topology.
    """

    accelerator: str
    count: int
    runtime: str
    gke: str
    axes: int


KINDS = {
    "v4": Kind("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", 3),
    "v5e": Kind("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 2),
    "v5p": Kind("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", 3),
    "v6e": Kind("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", 2),
    "tpu7x": Kind("", 1, "", "tpu7x", 3),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice such as v5e:4x4."""

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Four chips per host; eight in a v5e or v6e slice of eight."""
        return 1 if self.chips == 8 and self.kind.axes == 2 else math.ceil(self.chips / 4)

    @property
    def topology(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def accelerator(self) -> str:
        """v5litepod-16. Raises ConfigError if Cloud TPU has no VMs of this kind."""
        if not self.kind.accelerator:
            raise ConfigError(
                f"--topology={self.name}: TPU VMs of it are not known here; use the target gke"
            )
        return f"{self.kind.accelerator}-{self.chips * self.kind.count}"


def slice_of(topology: str) -> Slice:
    """The slice of --topology. Raises ConfigError if it is none."""
    name, _, shape = topology.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(
            f"--topology={topology!r}: expected a TPU slice such as v5e:4x4; the versions are "
            f"{', '.join(KINDS)}"
        )
    example = "4x4" if kind.axes == 2 else "2x2x2"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") + 1 != kind.axes:
        raise ConfigError(
            f"--topology={topology!r}: expected {kind.axes} axes of chips, such as {name}:{example}"
        )
    return Slice(topology, kind, tuple(map(int, shape.split("x"))))
