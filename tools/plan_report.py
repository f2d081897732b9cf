"""The cost of a compiled train step per chip: memory, work, communication, time. tools/plan.py prints it."""

import dataclasses

import jax

from tools.chips import GIB, Chip
from tools.hlo import Collective, Program
from tools.jaxpr_flops import matrix_flops

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Report:
    """A plan of one config on one topology. Sizes are bytes, FLOPs and seconds of one step.

    Attributes:
      topology: as given.
      chip: None for a CPU, which has no roofline.
      devices: JAX's devices; all of the following but `model_flops` and `tokens_per_step` is of one of them.
      mesh: {axis: size}.
      memory: {kind: bytes}; their sum is the peak.
      model_flops: of a step, over all devices.
      executed_flops: of matrix products, with recomputation.
      xla: {'flops', 'bytes accessed'} of XLA's cost analysis, which counts the body of a loop once.
      bytes_accessed: of the device's memory.
      collectives: tools.hlo.Collective of each kind and mesh axes.
      tokens_per_step: tokens that the model reads.
      compile_seconds: 0.0 for an analytic report.
      notes: lines about how a number was obtained, and about parameters that the mesh does not split.
    """

    topology: str
    chip: Chip | None
    devices: int
    mesh: dict[str, int]
    memory: dict[str, int]
    model_flops: float
    executed_flops: float
    xla: dict[str, float]
    bytes_accessed: float
    collectives: list[Collective]
    tokens_per_step: int
    attention: str = ""
    compile_seconds: float = 0.0
    is_analytic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def limit_bytes(self) -> float:
        """Memory of a device; 0: not known."""
        return self.chip.hbm_bytes if self.chip else 0

    @property
    def fits(self) -> bool:
        return not self.chip or self.peak_bytes <= self.limit_bytes

    @property
    def seconds(self) -> dict[str, float]:
        """Least time of each resource alone; {} without a chip."""
        if self.chip is None:
            return {}
        sent = sum(each.bytes for each in self.collectives)
        return {
            "compute": self.executed_flops / self.chip.peak_flops,
            "memory": self.bytes_accessed / self.chip.hbm_bandwidth,
            "interconnect": sent / self.chip.interconnect,
        }

    @property
    def step_seconds(self) -> float:
        """The roofline: the time of the slowest resource, if the others work at the same time."""
        return max(self.seconds.values(), default=0.0)

    @property
    def order(self) -> float:
        """The objective of a search: the bound, and a tenth of the times of all resources, which do not
        wholly overlap; it decides between plans with the same bound."""
        return self.step_seconds + 0.1 * sum(self.seconds.values())

    @property
    def utilization(self) -> float:
        """Model FLOPs / (peak * step_seconds): no run can reach more."""
        if not self.step_seconds:
            return 0.0
        return self.model_flops / self.devices / (self.chip.peak_flops * self.step_seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / self.step_seconds if self.step_seconds else 0.0

    def cost(self, price: float) -> float:
        """Price of 10^9 tokens, at `price` per chip and hour."""
        chips = self.devices / self.chip.devices_per_chip
        return price * chips * (1e9 / self.tokens_per_second) / 3600

    def record(self, price: float = 0.0) -> dict:
        """The report as JSON."""
        fields = dataclasses.asdict(self)
        fields |= {"chip": self.chip and dataclasses.asdict(self.chip)}
        fields |= {"peak_bytes": self.peak_bytes, "fits": self.fits}
        if self.chip:
            fields |= {
                "seconds": self.seconds, "step_seconds": self.step_seconds,
                "utilization_bound": self.utilization,
                "tokens_per_day": self.tokens_per_second * DAY,
            }  # fmt: skip
            if price:
                fields |= {"price_per_chip_hour": price, "cost_per_1e9_tokens": self.cost(price)}
        return fields


def report_of(topology, chip, step, compiled, compile_seconds=0.0) -> Report:
    """The Report of a plan_step.PlannedStep and its compiled program."""
    mesh_shape, stats = dict(step.mesh.shape), compiled.memory_analysis()
    program, devices = Program(compiled.as_text()), step.mesh.size
    memory = dict(step.state_bytes)
    memory["inputs and padding"] = stats.argument_size_in_bytes - sum(memory.values())
    memory["outputs that reuse no argument"] = (
        stats.output_size_in_bytes - stats.alias_size_in_bytes
    )
    memory["temporaries"] = stats.temp_size_in_bytes
    memory["program"] = stats.generated_code_size_in_bytes
    cost = compiled.cost_analysis() or {}
    notes = list(step.unsharded)
    executed = matrix_flops(step.traced.jaxpr, mesh_shape)
    if executed < 0.9 * step.model_flops:
        notes.append("the traced program has fewer FLOPs than the model needs: the latter are used")
        executed = step.model_flops
    return Report(
        topology=topology,
        chip=chip,
        devices=devices,
        mesh=mesh_shape,
        memory=memory,
        model_flops=step.model_flops,
        executed_flops=executed / devices,
        xla={name: float(cost.get(name, 0.0)) for name in ("flops", "bytes accessed")},
        bytes_accessed=program.bytes_accessed(),
        collectives=program.collectives(mesh_shape),
        tokens_per_step=step.task.tokens_per_step,
        attention=step.attention,
        compile_seconds=compile_seconds,
        notes=tuple(notes),
    )


def lines_of(report: Report, price: float = 0.0) -> list[str]:
    """The report as text."""
    chip, seconds = report.chip, report.seconds
    mesh = " ".join(f"{axis}={size}" for axis, size in report.mesh.items())
    kind = chip.device_kind if chip else "CPU"
    unit = "chip" if not chip or chip.devices_per_chip == 1 else "device"
    found = [
        f"{report.topology}: {report.devices} x {kind}, mesh {mesh}; {report.tokens_per_step:,} tokens "
        "per step",
        report.attention,
        "ANALYTIC: estimated by formulas, not compiled" if report.is_analytic
        else f"compiled in {report.compile_seconds:.1f} s with JAX {jax.__version__}",
        *report.notes,
        "",
        f"memory per {unit:<26} MiB",
    ]  # fmt: skip
    found += [f"  {name:<32} {size / 2**20:>9,.1f}" for name, size in report.memory.items() if size]
    end = ""
    if chip:
        left = (report.limit_bytes - report.peak_bytes) / GIB
        end = f" of {report.limit_bytes / 2**20:,.0f}: "
        end += (
            f"fits, {left:.2f} GiB free" if left >= 0 else f"DOES NOT FIT, {-left:.2f} GiB too much"
        )
    found += [f"  {'peak':<32} {report.peak_bytes / 2**20:>9,.1f}{end}", ""]
    found += [
        f"work per {unit} and step",
        f"  {'model FLOPs':<32} {report.model_flops / report.devices:>9.3g}",
        f"  {'executed, with recomputation':<32} {report.executed_flops:>9.3g}"
        + _of_xla(report, "flops"),
        f"  {'bytes of memory traffic':<32} {report.bytes_accessed:>9.3g}"
        + _of_xla(report, "bytes accessed"),
        "",
        f"communication per {unit} and step      count       MiB",
    ]
    found += [
        f"  {each.kind:<20} {'+'.join(each.axes):<14} {each.count:>5,} {each.bytes / 2**20:>9,.1f}"
        for each in report.collectives
    ] or ["  none"]
    if chip:
        bound = max(seconds, key=seconds.get)
        found += ["", "least time of a step (each resource at its peak)"]
        found += [f"  {name:<32} {1e3 * value:>9.2f} ms{'  <- bound' * (name == bound)}"
                  for name, value in seconds.items()]  # fmt: skip
        found += [
            f"  model FLOPs utilization at most   {100 * report.utilization:>8.1f} %",
            f"  tokens per day at most            {report.tokens_per_second * DAY:>10.3g}",
        ]
        if price:
            found.append(
                f"  cost of 10^9 tokens at least      {report.cost(price):>10.2f}  at {price:g} per chip "
                "and hour"
            )
    return found


def _of_xla(report, name):
    return f"  (XLA, each loop once: {report.xla[name]:.3g})" if name in report.xla else ""
