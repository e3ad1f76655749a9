"""Kernel signatures: a kernel names its arguments once, and every call is checked against that.

`"x w? -> y | n heads x_token x_head | eps"`: operands that are read, `->` operands that are written, `|` integers,
`|` floats. Fields at the end may be left out. An operand that ends in `?` may be None, which the kernel sees as 0.
Integers that count bytes (strides, sizes of rows) say so in the kernel; an operand is the address of its first byte.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_cast
from numba.core.typeconv import Conversion
from numba.extending import models, register_model

from graphsched.errors import Error
from graphsched.run.operand import Operand, Out

RESERVED = ("each", "kernel", "over", "rows", "self")  # parameters of `Low.step`
Kind = Literal["operand", "integer", "float"]
Bound = Operand | int | float | None  # as a lowering gives it
Argument = Operand | Out | int | float  # as a step has it: floats only for floats, 0 for an absent operand


class KernelError(Error):
    """A call that does not fit the kernel's signature, or a kernel that cannot be compiled as it is declared."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel."""

    name: str
    kind: Kind
    is_written: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class Signature:
    """The arguments of the kernel `name` in the order of its step record; `each` is repeated behind them."""

    name: str
    parameters: tuple[Parameter, ...]
    each: tuple[Parameter, ...] = ()

    def bind(
        self, args: Mapping[str, Bound], each: Sequence[Mapping[str, Bound]] = ()
    ) -> tuple[Argument, ...]:
        """The arguments in order, operands that the kernel writes marked `Out`.

        Raises KernelError, which names kernel and argument, for a name that is missing or unknown, and for a value of
        another kind. An integer given for a float is converted.
        """
        if each and not self.each:
            raise KernelError(f"kernel {self.name} has no repeated arguments")
        groups = [_bound(self.name, self.parameters, args)]
        groups += [_bound(f"{self.name}, each[{i}]", self.each, a) for i, a in enumerate(each)]
        return tuple(value for group in groups for value in group)


def parse(name: str, text: str, each: str = "") -> Signature:
    """The signature that a declaration stands for. Raises KernelError for one that is malformed."""
    signature = Signature(name, tuple(_parameters(name, text)), tuple(_parameters(name, each)))
    names = [p.name for p in signature.parameters]
    for n in [*names, *(p.name for p in signature.each)]:
        if not n.isidentifier() or n in RESERVED:
            raise KernelError(f"kernel {name} cannot have an argument named {n!r}")
    if len(set(names)) < len(names):
        raise KernelError(f"kernel {name} declares an argument twice: {text}")
    return signature


def _parameters(name: str, text: str) -> Iterable[Parameter]:
    operands, integers, floats, *more = [*(field.strip() for field in text.split("|")), "", ""][:4]
    if more and "".join(more):
        raise KernelError(f"kernel {name} declares more than operands | integers | floats: {text}")
    read, _, written = operands.partition("->")
    for field, is_written in ((read, False), (written, True)):
        for n in field.split():
            yield Parameter(n.removesuffix("?"), "operand", is_written, n.endswith("?"))
    yield from (Parameter(n, "integer") for n in integers.split())
    yield from (Parameter(n, "float") for n in floats.split())


def _bound(kernel: str, parameters: Sequence[Parameter], args: Mapping[str, Any]) -> list[Argument]:
    names = [p.name for p in parameters]
    missing = [p.name for p in parameters if p.name not in args and not p.is_optional]
    unknown = [n for n in args if n not in names]
    if missing or unknown:
        wrong = f"misses {', '.join(missing)}" if missing else f"has no argument {', '.join(unknown)}"
        raise KernelError(f"kernel {kernel} {wrong}; it takes {', '.join(names)}")
    return [_value(kernel, p, args.get(p.name)) for p in parameters]


def _value(kernel: str, p: Parameter, value: Any) -> Argument:
    if p.kind == "operand":
        if isinstance(value, Operand):
            return Out(value) if p.is_written else value
        if value is None and p.is_optional:
            return 0
    elif not isinstance(value, bool):
        if p.kind == "float" and (isinstance(value, float) or hasattr(value, "__index__")):
            return float(value)
        if p.kind == "integer" and hasattr(value, "__index__"):
            return int(value.__index__())
    raise KernelError(f"kernel {kernel}: {p.kind} {p.name} cannot take {type(value).__name__} {value!r:.60}")


class StepType(types.Type):
    """The address of a step record: an int64 that knows the (name, kind) of every argument behind it."""

    def __init__(self, signature: Signature) -> None:
        self.arguments = _fields(signature.parameters)
        self.each = _fields(signature.each)
        super().__init__(name=f"step({self.arguments}, {self.each})")

    def can_convert_to(self, typingctx: Any, other: types.Type) -> Any:
        """It is an int64 wherever one is needed."""
        return Conversion.safe if other == types.int64 else None


Fields = tuple[tuple[str, Kind], ...]


def _fields(parameters: Iterable[Parameter]) -> Fields:
    return tuple((p.name, p.kind) for p in parameters)


@register_model(StepType)
class _StepModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: StepType) -> None:
        super().__init__(dmm, fe_type, ir.IntType(64))


@lower_cast(StepType, types.int64)
def _to_int64(context: Any, builder: Any, fromty: Any, toty: Any, value: ir.Value) -> ir.Value:
    return value
