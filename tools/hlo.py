"""The text of a compiled program (HLO): the bytes that each device sends, reads and writes.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop runs. Used by
tools/plan.py.
"""

import collections
import dataclasses
import functools
import math
import re

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
               "collective-permute", "collective-broadcast")  # fmt: skip
BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
# Instructions that move nothing, or whose bodies are counted in their place.
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
        "after-all", "partition-id", "replica-id", "opt-barrier", "iota", "async-start",
        "async-update")  # fmt: skip
SLICES = ("dynamic-slice", "slice", "gather")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_TRIPS = re.compile(r'known_trip_count"?:?\{"?n"?:"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation. `rest`: its operands and attributes."""

    name: str
    shape: str
    opcode: str
    rest: str
    is_root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands."""
        depth = 1
        for end, letter in enumerate(self.rest):
            depth += (letter == "(") - (letter == ")")
            if not depth:
                return re.findall(r"%([\w.\-]+)", self.rest[:end])
        return []

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        several = re.search(r"(?:branch_computations|called_computations)=\{([^}]*)\}", self.rest)
        return _CALLED.findall(self.rest) + re.findall(
            r"%([\w.\-]+)", several[1] if several else ""
        )


@dataclasses.dataclass(frozen=True)
class Collective:
    """The traffic of one device in collectives of a kind over the same mesh axes, in one step.

    Attributes:
      kind: one of COLLECTIVES.
      axes: the mesh axes over which its groups extend; ('?',) if they are none of the mesh.
      count: collectives per step.
      bytes: sent by a device: with n devices in a group and N bytes in the whole array, N (n - 1) / n
        for all-gather, reduce-scatter and all-to-all, twice that for all-reduce (ring algorithms), N for a
        permute.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float


def array_bytes(shape: str, hbm_only: bool = False) -> int:
    """Bytes of all arrays in a shape; hbm_only: without arrays that TPUs keep in on-chip memory."""
    total = 0
    for dtype, sizes, layout in _ARRAY.findall(shape):
        if hbm_only and re.search(r"S\([1-9]", layout):
            continue
        digits = re.search(r"\d+", dtype)
        bits = BITS[dtype] if dtype in BITS else int(digits[0]) if digits else 0
        total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
    return total


class Program:
    """The computations of a compiled program, from `compiled.as_text()`."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        current = entry = None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                root, name, shape, opcode, rest = found.groups()
                current.append(Instruction(name, shape, opcode, rest, bool(root)))
        self.shapes = {i.name: i.shape for each in self.computations.values() for i in each}
        self.counts: dict[str, int] = collections.Counter()  # how often each computation runs
        self.top: set[str] = set()  # computations whose instructions are kernels of their own
        self.in_loops: set[str] = set()  # computations that a loop runs
        if entry:
            self._visit(entry, 1, True, False)

    def _visit(self, name, times, is_top, in_loop):
        self.counts[name] += times
        if is_top:
            self.top.add(name)
        if in_loop:
            self.in_loops.add(name)
        for each in self.computations.get(name, ()):
            inside = is_top and each.opcode in ("while", "conditional", "call", "async-start")
            for called in each.called:
                trips = self._trips(each) if each.opcode == "while" else 1
                self._visit(called, times * trips, inside, in_loop or each.opcode == "while")

    def _trips(self, loop):
        """How often the body of a loop runs. Where the compiler does not say it: a loop of JAX counts from 0
        to the constant that its condition compares with; 1 for any other."""
        if found := _TRIPS.search(loop.rest):
            return int(found[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        body = {each.name: each for each in self.computations.get(condition[1], ())}
        for each in body.values():
            if each.is_root and each.opcode == "compare" and "direction=LT" in each.rest:
                limits = [
                    body[name].rest
                    for name in each.operands
                    if name in body and body[name].opcode == "constant"
                ]
                if limits and (number := re.match(r"(\d+)\)", limits[0])):
                    return int(number[1])
        return 1

    def collectives(self, mesh_shape: dict[str, int]) -> list[Collective]:
        """The collectives of a step by kind and mesh axes. A compiler may split an asynchronous one into
        several instructions with one channel: it counts once."""
        found = {}
        for name, times in self.counts.items():
            for each in self.computations.get(name, ()):
                kind = each.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                channel = re.search(r"channel_id=(\d+)", each.rest)
                key = channel[1] if channel else (name, each.name)
                if times > found.get(key, (0,))[0]:
                    found[key] = times, kind, each, name
        totals = collections.defaultdict(lambda: [0, 0.0])
        for times, kind, each, where in found.values():
            groups = device_groups(each.rest, mesh_shape)
            size = max(map(len, groups), default=1)
            sent, kind = self._sent(kind, each, where, size)
            if size > 1 and sent:
                total = totals[kind, varying_axes(groups, mesh_shape)]
                total[0] += times
                total[1] += times * sent
        return [Collective(*key, *total) for key, total in sorted(totals.items())]

    def _sent(self, kind, each, where, size):
        operands = sum(array_bytes(self.shapes.get(name, "")) for name in each.operands)
        if kind == "collective-permute":
            return operands, kind
        output = operands * size if kind == "all-gather" else operands
        # A fusion of all-reduce and slice keeps a part of the result: it is a reduce-scatter.
        scatters = kind == "all-reduce" and "reduce-scatter" in where
        kind = "reduce-scatter" if scatters else kind
        return output * (size - 1) / size * (2 if kind == "all-reduce" else 1), kind

    def bytes_accessed(self) -> float:
        """Bytes that a step reads from and writes to the memory of a device.

        Counts the operands and outputs of each kernel, of slices the part that is read or written, and leaves
        out what TPUs keep in on-chip memory.
        """
        return float(
            sum(
                self.counts[name] * sum(map(self._accessed, self.computations.get(name, ())))
                for name in self.top
            )
        )

    def _accessed(self, each):
        if each.opcode in FREE or each.opcode.endswith("-done"):
            return 0
        if each.opcode in SLICES:
            return array_bytes(each.shape) + array_bytes(each.shape, True)
        if each.opcode.removesuffix("-start") in SLICES:  # ((operand), output, context)
            output = list(_ARRAY.finditer(each.shape))[1][0]
            return array_bytes(output) + array_bytes(output, True)
        if each.opcode == "dynamic-update-slice":
            return 2 * array_bytes(self.shapes.get(each.operands[1], ""), True)
        read = [array_bytes(self.shapes.get(name, ""), True) for name in each.operands]
        if each.opcode.endswith("-start"):
            return 2 * sum(read)
        written = array_bytes(each.shape, True)
        if each.opcode == "fusion" and each.called:
            written, read = self._fused(self.computations.get(each.called[0], ()), written, read)
        return written + sum(read)

    def _fused(self, fused, written, read):
        """(bytes written, bytes read of each operand) of a fusion that slices operands or updates one."""
        uses = collections.defaultdict(list)
        for each in fused:
            for position, name in enumerate(each.operands):
                uses[name].append((each, position))
        root = next((each for each in fused if each.is_root), None)
        for each in fused:
            if each.opcode != "parameter":
                continue
            number = int(each.rest.partition(")")[0])
            users = uses[each.name]
            if number >= len(read) or not users or not read[number]:
                continue
            if all(user.opcode in SLICES and position == 0 for user, position in users):
                read[number] = min(read[number], sum(array_bytes(u.shape, True) for u, _ in users))
            elif all(u.opcode == "dynamic-update-slice" and p == 0 for u, p in users):
                read[number] = 0
        if root is not None and root.opcode == "dynamic-update-slice":
            written = min(written, array_bytes(self.shapes.get(root.operands[1], ""), True))
        return written, read


def device_groups(attributes: str, mesh_shape: dict[str, int]) -> list[list[int]]:
    """The groups of devices, as positions in the mesh, among which a collective communicates.

    Reads `replica_groups` as a list, as an iota ([2,4]<=[4,2]T(1,0)) or by axes of a mesh, and
    `source_target_pairs`, whose pairs are groups. Empty groups: all devices.
    """
    number = math.prod(mesh_shape.values())
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", attributes):
        pairs = [list(map(int, pair.split(","))) for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
        return [pair for pair in pairs if pair[0] != pair[1]]
    start = attributes.find("replica_groups=")
    text = attributes[start + len("replica_groups=") :] if start >= 0 else ""
    if found := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims, order = (
            [int(n) for n in (part or "").split(",") if n] for part in found.groups()
        )
        ids = np.arange(math.prod(dims)).reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape).tolist()
    if found := re.match(
        r"mesh\[([^\]]*)\](?:, ?device_ids=\(?([\[\]\d,<=T()]*)\)?)? ?\{([^}]*)\}", text
    ):
        return _mesh_groups(found[1], found[3])
    if found := re.match(r"\{((?:\{[\d,]*\},?)+)\}", text):
        return [list(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return [list(range(number))]


def _mesh_groups(axes, grouped):
    """Groups of mesh['data'=2,'tensor'=4] {'tensor'} or {'tensor':(1)2}, a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    parts = {name: [(size, False)] for name, size in sizes.items()}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", grouped):
        before, size = int(before or 1), int(size or sizes[name])
        parts[name] = [(before, False), (size, True), (sizes[name] // before // size, False)]
    flat = [part for each in parts.values() for part in each]
    ids = np.arange(math.prod(sizes.values())).reshape([size for size, _ in flat])
    inside = [i for i, (_, is_inside) in enumerate(flat) if is_inside]
    outside = [i for i, (_, is_inside) in enumerate(flat) if not is_inside]
    width = math.prod(flat[i][0] for i in inside)
    return ids.transpose(outside + inside).reshape(-1, width).tolist()


def varying_axes(groups: list[list[int]], mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes whose index differs within a group, ('?',) for devices outside of the mesh."""
    sizes, axes = list(mesh_shape.values()), set()
    for group in groups:
        if max(group, default=0) >= math.prod(sizes):
            return ("?",)
        indices = np.unravel_index(group, sizes)
        axes |= {name for name, index in zip(mesh_shape, indices, strict=True) if np.ptp(index)}
    return tuple(name for name in mesh_shape if name in axes)
