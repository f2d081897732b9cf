"""Memory and bandwidths of the chips of tools/plan.py; their peak FLOP/s are in training/flops.py.

Sources: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and /tpu7x ("Key specifications"); NVIDIA's data
sheets of the A100 (June 2021), H100 (SXM column) and H200. An interconnect is counted in one direction, half
of what these pages call bidirectional.
"""

import dataclasses
import difflib

from training.config import ConfigError
from training.flops import PEAK

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip, or where JAX sees a chip as several devices (TPU7x), a device.

    Attributes:
      name: as --topology names it.
      device_kind: as JAX names it.
      hbm_bytes: memory.
      hbm_bandwidth: bytes per second.
      interconnect: bytes per second that it can send to its neighbors (TPU) or over NVLink (GPU).
      example: a topology of it.
      devices_per_chip: devices that JAX sees in a chip; the other attributes are of one of them.
    """

    name: str
    device_kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    interconnect: float
    example: str
    devices_per_chip: int = 1

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        return PEAK[self.device_kind] / self.devices_per_chip

    @property
    def topology_options(self) -> dict:
        """Arguments of get_topology_desc: both cores of a v4 chip are one device, as on Cloud TPU."""
        return {"chip_config_name": "megacore"} if self.name == "v4" else {}

    @property
    def is_gpu(self) -> bool:
        return self.device_kind.startswith("NVIDIA")


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 32 * GIB, 1200e9, 150e9, "v4:4x4x4"),
        Chip("v5e", "TPU v5e", 16 * GIB, 819e9, 200e9, "v5e:16x16"),
        Chip("v5p", "TPU v5p", 95 * GIB, 2765e9, 600e9, "v5p:8x8x16"),
        Chip("v6e", "TPU v6e", 32 * GIB, 1600e9, 400e9, "v6e:16x16"),
        Chip("tpu7x", "TPU7x", 96 * GIB, 3690e9, 300e9, "tpu7x:4x4x4", 2),
        Chip("a100-40gb", "NVIDIA A100-SXM4-40GB", 40e9, 1555e9, 300e9, "a100-40gb:8"),
        Chip("a100-80gb", "NVIDIA A100-SXM4-80GB", 80e9, 2039e9, 300e9, "a100-80gb:8"),
        Chip("h100", "NVIDIA H100 80GB HBM3", 80e9, 3350e9, 450e9, "h100:8"),
        Chip("h200", "NVIDIA H200", 141e9, 4800e9, 450e9, "h200:8"),
    )
}


def chip_of(name: str) -> Chip:
    """The chip of a topology's name. Raises ConfigError for one that is not in the table."""
    if name not in CHIPS:
        near = difflib.get_close_matches(name, [*CHIPS, "cpu"], n=1)
        raise ConfigError(
            f"--topology names {name!r}, which is not in the table of chips; "
            f"{f'did you mean {near[0]}? ' if near else ''}expected one of {', '.join(CHIPS)}, or cpu"
        )
    return CHIPS[name]


def of_kind(device_kind: str) -> Chip | None:
    """The chip of JAX's devices of a kind; None if it is not in the table, as every CPU."""
    same = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}
    kind = same.get(device_kind, device_kind)
    return next((chip for chip in CHIPS.values() if chip.device_kind == kind), None)
