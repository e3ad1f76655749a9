"""The offload policy, -op: which ops may run on a device although their weight is in host memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from graphsched.errors import OptionError
from graphsched.graph.opdef import FIRST_USER_OP, AnyOp, Op, every_op
from graphsched.graph.tensor import Tensor

_EVERY: Final = "-1"
_NUMBERED: Final = 81  # the ops of ik_llama.cpp's list; ours follow with a gap
_LARGEST_BATCH: Final = 1 << 30


@dataclass(frozen=True)
class OffloadPolicy:
    """Permits and never forces; `off` are op numbers. OptionError outside the valid range.

    The upload of a weight pays if enough rows use it: of a dense weight min_batch rows, of experts
    min_batch per expert, so that n_tokens · n_used >= min_batch · n_expert. As n_used <= n_expert, these are never
    fewer than min_batch tokens, which ik_llama.cpp asks for as well.
    """

    off: frozenset[int] = frozenset()
    min_batch: int = 32

    def __post_init__(self) -> None:
        value = self.min_batch
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_BATCH:
            raise OptionError(f"min_batch is {value}, an integer from 0 to {_LARGEST_BATCH} is needed")

    def permits(self, op: AnyOp) -> bool:
        return int(op) not in self.off

    def wants(self, node: Tensor, n_tokens: int) -> bool:
        """Whether a node with this many rows should run where a device is, its weight being in host memory.

        A node behind the selection of output rows has as many rows as outputs.
        """
        traits = node.traits
        if not self.permits(node.op) or traits.gathers:
            return False
        if traits.chosen_by:
            n_used = int(node.operand(traits.chosen_by).shape[1])
            n_expert = int(node.operand(traits.product[0]).shape[0])
            return n_tokens * n_used >= self.min_batch * n_expert
        return n_tokens >= self.min_batch

    def __str__(self) -> str:
        """The policy as -op takes it, empty if nothing is off."""
        names = {int(op): op.name for op in every_op()}
        if self.off == frozenset(names):
            return f"{_EVERY},0"
        return ",".join(f"{names[n]}=0" for n in sorted(self.off))


def parse_policy(values: Sequence[str], min_batch: int = 32) -> OffloadPolicy:
    """The policy of all -op arguments: OP,0|1 or OP=0|1, op by number or name, -1 for all; later pairs win."""
    off: set[int] = set()
    for value in values:
        for op, switch in _pairs(value.strip()):
            ops, is_on = set(_ops(op, value)), _switch(op, switch, value)
            off = off - ops if is_on else off | ops
    return OffloadPolicy(frozenset(off), min_batch)


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    """The pairs of one argument, as typed."""
    words = iter(word.strip() for word in value.split(","))
    for word in words:
        op, equals, switch = (part.strip() for part in word.partition("="))
        if not op:
            raise OptionError(f"-op {value or 'with nothing'} needs pairs of an op and 0 or 1, as in 26,0")
        following = switch if equals else next(words, None)
        if following is None:
            raise OptionError(f"-op {value}: no 0 or 1 follows {op}")
        yield op, following


def _switch(op: str, switch: str, value: str) -> bool:
    if switch not in ("0", "1"):
        raise OptionError(f"-op {value}: {op} is {switch or 'empty'}, 0 (off) or 1 (on) is needed")
    return switch == "1"


def _ops(word: str, value: str) -> Iterable[int]:
    if word == _EVERY:
        return map(int, every_op())
    if word.isascii() and word.lstrip("+-").isdigit():
        return [_number(word, value)]
    name = word.upper().replace("-", "_")
    known = {op.name: int(op) for op in every_op()}
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "graphsched ops lists them"
        raise OptionError(f"-op {value}: no op {word}; {hint}")
    return [known[name]]


def _number(word: str, value: str) -> int:
    known = {str(int(op)): op for op in every_op()}
    if word not in known:
        own = [int(op) for op in Op if op >= _NUMBERED]
        users = "".join(f"{int(op)}, " for op in every_op() if op >= FIRST_USER_OP)
        ranges = f"0 to {_NUMBERED - 1}, {own[0]} to {own[-1]}, {users}or -1 for all"
        raise OptionError(f"-op {value}: no op {word}; ops are {ranges}")
    return int(known[word])
