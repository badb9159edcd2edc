"""FLOPs of a compiled program's loops, read off its HLO text.

XLA's cost analysis takes a loop's body once, whatever its trip count; what the other rounds cost
is counted here the way XLA counts: two per multiply-add of a product, one per element of
arithmetic, nothing for moving data.  (Unrolling the loop instead changes what is fused, hence
recomputed, and takes a minute to compile.)
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<op>[\w-]+)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_DIMENSIONS = re.compile(r"\[([\d,]*)\]")

_CALLS = {"call", "fusion", "while"}
_REDUCTIONS = {"reduce", "reduce-window"}
_ARITHMETIC = set(
    "abs add and ceil clamp compare divide floor maximum minimum multiply negate not or remainder "
    "round-nearest-afz round-nearest-even select sign subtract xor".split()
)
_UNCOUNTED = {"conditional", "custom-call", "scatter", "sort"}


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str

    @property
    def called(self) -> list[str]:
        return _CALLED.findall(self.rest)


Program = dict[str, list[Instruction]]


def further_flops(text: str) -> float | None:
    """FLOPs of all rounds but the first of every loop; None where they can't be told."""
    program = parse(text)
    loops = [i for body in program.values() for i in body if i.op == "while"]
    inner = {name for loop in loops for name in reachable(program, loop)}
    outer = [
        i for name, body in program.items() if name not in inner for i in body if i.op == "while"
    ]
    try:
        return sum(
            flops_of(program, {}, loop, rounds=True) - flops_of(program, {}, loop, rounds=False)
            for loop in outer
        )
    except LookupError:
        return None


def parse(text: str) -> Program:
    """The computations of an HLO module by name."""
    program: Program = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            body = program[start[1]] = []
        elif found := _INSTRUCTION.match(line):
            operands = tuple(re.findall(r"%([\w.-]+)", found["operands"]))
            body.append(
                Instruction(found["name"], found["shape"], found["op"], operands, found["rest"])
            )
    return program


def reachable(program: Program, instruction: Instruction) -> Iterator[str]:
    """The computations that an instruction runs, at any depth."""
    for name in instruction.called:
        yield name
        for inner in program[name]:
            yield from reachable(program, inner)


def flops(program: Program, name: str, rounds: bool) -> float:
    """FLOPs of one run of a computation, its loops run in full or for one round each."""
    body = program[name]
    shapes = {i.name: i.shape for i in body}
    return sum(flops_of(program, shapes, i, rounds) for i in body)


def flops_of(
    program: Program, shapes: dict[str, str], instruction: Instruction, rounds: bool
) -> float:
    """FLOPs of one instruction.

    Raises:
      LookupError: for a loop of unknown length, and for what this module has no count of.
    """
    op = instruction.op
    if op in _UNCOUNTED:
        raise LookupError(op)
    if op in _CALLS:
        once = sum(flops(program, name, rounds) for name in instruction.called)
        return once * (trips(instruction) if op == "while" and rounds else 1)
    if op == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        sizes = dimensions(shapes[instruction.operands[0]])
        summed = integers(contracted[1]) if contracted else []
        return 2 * size(instruction.shape) * math.prod(sizes[d] for d in summed)
    if op == "convolution":
        return convolution(
            instruction, *(dimensions(shapes[name]) for name in instruction.operands)
        )
    if op in _REDUCTIONS:
        return size(shapes[instruction.operands[0]])
    return size(instruction.shape) if op in _ARITHMETIC else 0


def convolution(instruction: Instruction, x: list[int], kernel: list[int]) -> int:
    """Two per element of x and of the kernel that meet: none for padding and dilation's zeros."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if found is None:
        raise LookupError("a convolution's dimensions")
    of_x, of_kernel, of_out = found.groups()
    out = dimensions(instruction.shape)
    window = re.search(r"window=\{(.*?)\}", instruction.rest)
    options = dict(re.findall(r"(\w+)=([\dx_-]+)", window[1])) if window else {}

    def option(name: str, axis: int, default: str) -> str:
        return options[name].split("x")[axis] if name in options else default

    total = 2 * out[of_out.index("b")] * out[of_out.index("f")] * kernel[of_kernel.index("i")]
    for axis, label in enumerate(sorted(set(of_x) - set("bf"))):
        stride, base, apart = (
            int(option(name, axis, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(option("pad", axis, "0_0").split("_")[0])
        length = (x[of_x.index(label)] - 1) * base
        places = (
            o * stride + k * apart - low
            for o in range(out[of_out.index(label)])
            for k in range(kernel[of_kernel.index(label)])
        )
        total *= sum(0 <= place <= length and place % base == 0 for place in places)
    return total


def trips(loop: Instruction) -> int:
    found = _TRIPS.search(loop.rest)
    if found is None:
        raise LookupError("a loop of unknown length")
    return int(found[1])


def size(shape: str) -> int:
    return math.prod(dimensions(shape))


def dimensions(shape: str) -> list[int]:
    """The sizes in `f32[2,3]{1,0}`."""
    found = _DIMENSIONS.search(shape)
    if found is None:
        raise LookupError(shape)
    return integers(found[1])


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]
