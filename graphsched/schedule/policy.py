"""The offload policy: which nodes may run on a device although their weight is in host memory.

A policy is any object with `wants`. The default is a rule by rows; `-op` switches it off by op, `-op-rule` takes a rule
of another package (entry point group `graphsched.policies`), `load(offload_policy=...)` takes an object.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from graphsched.errors import OptionError
from graphsched.graph.opdef import FIRST_USER_OP, Op, every_op
from graphsched.graph.tensor import Tensor
from graphsched.option import texts

GROUP: Final = "graphsched.policies"  # of entry points
_EVERY: Final = "-1"
_AUTO: Final = "auto"
_NUMBERED: Final = 81  # the ops of ik_llama.cpp's list; ours follow with a gap


@runtime_checkable
class Policy(Protocol):
    """Decides on uploads. Equal arguments must get equal answers, since plans are kept by the answers."""

    def wants(self, node: Tensor, rows: int) -> bool:
        """Whether a node should run on a device, its weight being in host memory and uploaded for it.

        rows: the node's actual rows in this run: its tokens, behind the selection of output rows its outputs.
        """


@dataclass(frozen=True)
class MinBatch:
    """The default rule: the upload of a weight pays if enough rows use it.

    Of a dense weight min_batch rows, of experts min_batch per expert, so that rows · n_used >= min_batch · n_expert. As
    n_used <= n_expert, these are never fewer than min_batch rows, which ik_llama.cpp asks for as well. Of an embedding
    a few rows are read, which never pays.
    """

    min_batch: int = 32

    def wants(self, node: Tensor, rows: int) -> bool:
        """Whether the node has enough rows; experts count the rows that each sees on average."""
        traits = node.traits
        # Experts are uploaded whole although a token uses few: each needs enough rows of its own.
        if traits.chosen_by:
            n_used = int(node.operand(traits.chosen_by).shape[1])
            n_expert = int(node.operand(traits.product[0]).shape[0])
            return rows * n_used >= self.min_batch * n_expert
        return not traits.gathers and rows >= self.min_batch


@dataclass(frozen=True)
class Auto:
    """`auto`: the rule by cost (`by_cost`), once a machine is known; where there is none nothing is uploaded."""

    def wants(self, node: Tensor, rows: int) -> bool:
        """Never."""
        return False

    def __str__(self) -> str:
        return "auto"


AUTO: Final = Auto()


@dataclass(frozen=True)
class OffloadPolicy:
    """A rule, and the ops (by number) that are held back whatever it wants. Permits and never forces."""

    off: frozenset[int] = frozenset()
    rule: Policy = field(default=MinBatch())

    def wants(self, node: Tensor, rows: int) -> bool:
        """What the rule says, False for ops that are off."""
        return int(node.op) not in self.off and self.rule.wants(node, rows)

    def __str__(self) -> str:
        """What is off, and auto if that is the rule, as -op takes it; empty if nothing is."""
        return ",".join(filter(None, (_AUTO if str(self.rule) == _AUTO else "", shown(self.off))))


@dataclass(frozen=True)
class Checked:
    """A policy of another package with a name for reports; its exceptions and wrong answers become OptionErrors."""

    policy: Policy
    name: str

    def wants(self, node: Tensor, rows: int) -> bool:
        """What the policy says. OptionError if it raises, or says neither True nor False."""
        try:
            answer = self.policy.wants(node, rows)
        except Exception as error:  # another's code can raise anything
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise OptionError(f"the offload policy {self.name} fails on {node}: {reason}") from error
        if not isinstance(answer, bool | np.bool_):
            wrong = f"says {answer!r} of {node}, True or False is needed"
            raise OptionError(f"the offload policy {self.name} {wrong}")
        return bool(answer)

    def __str__(self) -> str:
        return self.name


def read_policy(given: Any) -> frozenset[int] | Policy:
    """A policy, or the ops that -op texts (or numbers) switch off. OptionError for what is neither."""
    if isinstance(given, OffloadPolicy):
        return given
    if isinstance(given, Policy) or inspect.isclass(given):
        return checked(given)
    items = texts(given)
    if all(isinstance(item, str) for item in items):
        pieces = [[piece for piece in item.split(",") if piece.strip() != _AUTO] for item in items]
        off = parse_off([",".join(left) for left in pieces if left])
        return (
            off
            if sum(map(len, pieces)) == sum(len(i.split(",")) for i in items)
            else OffloadPolicy(off, AUTO)
        )
    if all(isinstance(item, int) and item in set(map(int, every_op())) for item in items):
        return frozenset(map(int, items))
    needed = "a text such as 26,0 or an object with wants(node, rows) is needed"
    raise OptionError(f"is of type {type(given).__name__}, {needed}")


def read_rule(given: Any) -> Policy | None:
    """A rule by the name under which another package installs it; None for our own. OptionError if there is none."""
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        return checked(given)
    if given == _AUTO:
        return AUTO
    points = _installed()
    if given not in points:
        choices = f"; there are {', '.join(sorted(points))}" if points else ""
        raise OptionError(f"is {given}, no package installs a rule of that name{choices}")
    try:
        loaded = points[given].load()
        rule = loaded() if inspect.isclass(loaded) else loaded
    except Exception as error:  # another package's code can raise anything
        where = f"is {given} (entry point {points[given].value})"
        raise OptionError(f"{where}, which cannot be imported: {error or type(error).__name__}") from error
    return checked(rule, given)


def checked(given: Any, name: str = "") -> Checked:
    """An object that has `wants(node, rows)`, as a policy with a name. OptionError for any other."""
    if isinstance(given, Checked):
        return given
    kind = f"the class {given.__name__}" if inspect.isclass(given) else f"of type {type(given).__name__}"
    try:
        inspect.signature(given.wants).bind(None, 0)
    except (TypeError, AttributeError):
        raise OptionError(f"is {name or kind}, an object with wants(node, rows) is needed") from None
    return Checked(given, name or type(given).__name__)


def shown(given: frozenset[int] | Policy | None) -> str:
    """A policy's name, or ops that are off as -op takes them; empty if nothing is off, or it is our own rule."""
    if not isinstance(given, frozenset):
        return "" if given is None else str(given)
    names = {int(op): op.name for op in every_op()}
    if given == frozenset(names):
        return f"{_EVERY},0"
    return ",".join(f"{names[n]}=0" for n in sorted(given))


def _installed() -> Mapping[str, EntryPoint]:
    """Entry points of other packages: `name = module:object`."""
    return {point.name: point for point in entry_points(group=GROUP)}


def parse_off(values: Iterable[str]) -> frozenset[int]:
    """The ops that -op texts switch off: OP,0|1 or OP=0|1, op by number or name, -1 for all; later pairs win."""
    off: set[int] = set()
    for value in values:
        for op, switch in _pairs(value.strip()):
            ops, is_on = set(_ops(op, value)), _switch(op, switch, value)
            off = off - ops if is_on else off | ops
    return frozenset(off)


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    """The pairs of one argument, as typed."""
    words = iter(word.strip() for word in value.split(","))
    for word in words:
        op, equals, switch = (part.strip() for part in word.partition("="))
        if not op:
            raise OptionError(f"{value or 'with nothing'} needs pairs of an op and 0 or 1, as in 26,0")
        following = switch if equals else next(words, None)
        if following is None:
            raise OptionError(f"{value}: no 0 or 1 follows {op}")
        yield op, following


def _switch(op: str, switch: str, value: str) -> bool:
    if switch not in ("0", "1"):
        raise OptionError(f"{value}: {op} is {switch or 'empty'}, 0 (off) or 1 (on) is needed")
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
        raise OptionError(f"{value}: no op {word}; {hint}")
    return [known[name]]


def _number(word: str, value: str) -> int:
    known = {str(int(op)): op for op in every_op()}
    if word not in known:
        ours = [int(op) for op in Op if op >= _NUMBERED]
        users = "".join(f"{int(op)}, " for op in every_op() if op >= FIRST_USER_OP)
        ranges = f"0 to {_NUMBERED - 1}, {ours[0]} to {ours[-1]}, {users}or -1 for all"
        raise OptionError(f"{value}: no op {word}; ops are {ranges}")
    return int(known[word])
