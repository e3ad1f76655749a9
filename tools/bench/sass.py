"""What the machine code of the CUDA kernels says of their speed, where there is no card to time them.

    python tools/bench/sass.py gemm_q8                     a product's instructions, and what they bound
    python tools/bench/sass.py matmul --kernel matvec_1_   bytes under way, and instructions for each byte

Rates are those of an H100: a multiprocessor has four schedulers, each of which issues one instruction a clock;
logic and integer instructions take two clocks of their unit. The bounds are upper ones: latencies, barriers and
memory come on top.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import checkout  # noqa: F401
from bench_report import exit_code
from nvdisasm import disassembled

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families.matmul import FLOATS
from graphsched.backends.cuda.launch import compiler
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE, LAYOUTS
from graphsched.errors import OptionError

SCHEDULERS, CLOCK, FLOPS = 4 * 132, 1.755e9, 2 * 16 * 8 * 32  # of the card; Hz; of an IMMA.16832
REGISTERS, WARPS = 65536, 64  # of a multiprocessor
LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)\s*(.*?)\s*(?:\(\*.*?\*\))?\s*;")
USAGE = re.compile(r"Function properties for (\w+)\n\D*(\d+) bytes stack.*\n.*?Used (\d+) registers")
UNITS = {  # first match
    "tensor": "IMMA|HMMA",
    "float": "FFMA|FMUL|FADD",
    "dot": "IDP",
    "shared": "LDSM|LDS|STS|LDGSTS",
    "control": "BRA|BAR|BS|NOP|DEPBAR|LDGDEPBAR|EXIT",
    "memory": "LDG|STG|LDL|STL|LD|ST",
    "uniform": "U[A-Z]|R2UR|S2UR",
}


@dataclass(frozen=True)
class Kernel:
    """Instructions (opcode, operands) in order, where labels stand, and what the assembler reports."""

    name: str
    code: list[tuple[str, str]]
    labels: dict[str, int]
    registers: int
    local: int
    threads: int

    @cached_property
    def loop(self) -> range:
        """The outermost loop with most products."""
        return max(self._loops(), key=lambda r: (self.products(r), len(r)), default=range(0))

    def _loops(self) -> Iterator[range]:
        for i, (op, operands) in enumerate(self.code):
            target = re.search(r"\(\.(L_x_\d+)\)", operands)
            if op.startswith("BRA") and target and (first := self.labels.get(target[1], i)) < i:
                yield range(first, i + 1)

    def products(self, where: range) -> int:
        return sum(self.code[i][0].startswith(("IMMA", "IDP", "FFMA")) for i in where)

    def weights(self) -> list[int]:
        """How often each instruction of the loop runs in a round: those of inner loops once for each IMMA missing."""
        inner = [r for r in self._loops() if r != self.loop and r[0] in self.loop and r[-1] in self.loop]
        times = [1] * len(self.code)
        multiply = [r for r in inner if any(self.code[i][0].startswith("IMMA") for i in r)]
        found = sum(self.count("IMMA", r) for r in multiply)
        if found:
            each = 4 * 16 * (2 if self.count("IMMA.16816", self.loop) else 1) // found
            for r in multiply:
                for i in r:
                    times[i] = each
        return times

    def count(self, op: str, where: range) -> int:
        return sum(self.code[i][0].startswith(op) for i in where)

    def by_unit(self) -> Counter[str]:
        times, counts = self.weights(), Counter[str]()
        for i in self.loop:
            counts[_unit(self.code[i][0])] += times[i]
        return counts

    def resident(self) -> int:
        """Warps of this kernel that a multiprocessor has registers for."""
        block = self.threads // 32
        return min(WARPS, REGISTERS // (-(-self.registers // 8) * 8 * 32)) // block * block

    def bytes_of_round(self) -> float:
        """Bytes of weights of a lane's steps in a round; 0 where the type has no planes."""
        layout = LAYOUTS.get(re.sub(r"^(matvec|up_gate)_((\d|fused|id)_)?", "", self.name))
        if layout is None:
            return 0
        wide = sum("CONSTANT" in op and ".128" in op for op, _ in (self.code[i] for i in self.loop))
        steps = wide // (1 + (layout.h == 16 or layout.b == 16))
        return steps * 16 / layout.q * (layout.q + layout.h + layout.s + layout.b / 8)

    def loads(self) -> tuple[int, int]:
        """Bytes of weights that a lane loads in a round, and most of them that it has under way at once."""
        total = most = 0
        waiting: dict[str, int] = {}  # register → bytes
        for _ in range(2):  # what the end of a round asks for may be used by the next one
            total = 0
            for op, operands in (self.code[i] for i in self.loop):
                names = re.findall(r"\bU?R\d+\b", operands)
                if any(n in waiting for n in names[op.startswith("LDG") :]):
                    waiting.clear()  # they come in order
                if op.startswith("LDG") and "CONSTANT" in op:
                    bits = re.search(r"\.(128|64)", op)
                    size = (
                        int(bits[1]) // 8
                        if bits
                        else 2
                        if "16" in op
                        else 1
                        if re.search(r"[US]8", op)
                        else 4
                    )
                    total, first = total + size, int(names[0][1:])
                    waiting |= {f"R{first + k}": 0 for k in range(max(1, size // 4))} | {names[0]: size}
                    most = max(most, sum(waiting.values()))
        return total, most


def _unit(op: str) -> str:
    return next((name for name, pattern in UNITS.items() if re.match(pattern, op)), "integer")


def kernels(stem: str, types: tuple[str, ...], arch: str) -> Iterator[Kernel]:
    """Every kernel of a file for some weight types."""
    source = compiler.assemble(stem, types)
    _, report = driver.compile_cubin(source, compiler.options(arch))
    used = {name: (int(r), int(local)) for name, local, r in USAGE.findall(report)}
    threads = {name: int(n) for n, name in re.findall(r"__launch_bounds__\((\d+)[^)]*\)\s+(\w+)\(", source)}
    for name, body in disassembled(compiler.build(source, arch).cubin).items():
        yield Kernel(name, *_parsed(body), *used[name], threads[name])


def _parsed(body: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    code: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if label := re.match(r"\.(L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := LINE.search(line):
            code.append((found[1], found[2]))
    return code, labels


def gemm_row(k: Kernel) -> tuple[str, ...]:
    """Instructions for one 16 x 8 x 32 product of a warp, and the TFLOP/s at which they fill the schedulers."""
    counts = k.by_unit()
    halves = 2 if k.count("IMMA.16816", k.loop) else 1
    products = (
        sum(n for i, n in enumerate(k.weights()) if i in k.loop and k.code[i][0].startswith("IMMA")) / halves
    )
    slots = counts.total() / products
    units = " ".join(f"{counts[u] / products:.2f}" for u in ("tensor", "float", "integer", "shared"))
    return (
        k.name,
        str(k.registers),
        str(k.resident()),
        f"{slots:.1f}",
        units,
        f"{FLOPS * SCHEDULERS * CLOCK / slots / 1e12:.0f}",
    )


def matvec_row(k: Kernel) -> tuple[str, ...]:
    """Weights under way on a multiprocessor, and how many bytes of them a clock its schedulers can work on."""
    loaded, most = k.loads()
    total = k.bytes_of_round() or loaded
    under_way = most * total / (loaded or 1)  # a header of a superblock is read by eight lanes
    counts = k.by_unit()
    slots = counts.total() / total if total else 0.0
    clocks = max(counts.total(), 2 * counts["integer"], 2 * counts["dot"]) / 4
    all_of_them, rate = under_way * 32 * k.resident() / 1024, total * 32 / clocks
    numbers = f"{under_way:.0f}", f"{all_of_them:.0f}", f"{slots:.2f}", f"{rate:.1f}"
    return (k.name, str(k.registers), str(k.resident()), *numbers)


HEADS = {
    "gemm": ("kernel", "registers", "warps", "slots/product", "tensor float integer shared", "TFLOP/s"),
    "matvec": ("kernel", "registers", "warps", "bytes/lane", "KiB under way", "slots/byte", "bytes/clock"),
}


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: report(parse(argv)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stem", choices=("gemm_q8", "matmul", "moe", "floats"))
    parser.add_argument("--types", default="", help="weight types, with commas (default: all)")
    parser.add_argument("--kernel", default="", help="only kernels whose name begins so")
    parser.add_argument("--arch", default="sm_90")
    return parser.parse_args(argv)


def report(given: argparse.Namespace) -> int:
    known = list(FLOATS if given.stem == "floats" else dict.fromkeys(KERNEL_TYPE.values()))
    types = given.types.split(",") if given.types else known
    if unknown := set(types) - set(known):
        raise OptionError(f"--types {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    if reason := driver.nvrtc_reason():
        raise OptionError(reason)
    found = [k for k in kernels(given.stem, tuple(types), given.arch) if k.name.startswith(given.kernel)]
    if not found:
        raise OptionError(f"--kernel {given.kernel}: no kernel's name begins so")
    heads, row = (HEADS["gemm"], gemm_row) if given.stem == "gemm_q8" else (HEADS["matvec"], matvec_row)
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for k in found:
        if len(k.loop):
            print("| " + " | ".join(row(k)) + " |" + (f" {k.local} bytes of local memory" if k.local else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
