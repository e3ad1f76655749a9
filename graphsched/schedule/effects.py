"""What was asked of placement and offload policy, counted by what it is about."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphsched.gguf.given import Given
from graphsched.graph.opdef import every_op
from graphsched.graph.tensor import Tensor
from graphsched.schedule.by_cost import ByCost
from graphsched.schedule.options import PlacementOptions, listed
from graphsched.schedule.overrides import Override
from graphsched.schedule.policy import MinBatch, OffloadPolicy, Policy
from graphsched.types.devices import HOST
from graphsched.types.shapes import TensorType

_NO_WEIGHT: Final = "no weight is in host memory"
EXPERTS: Final = re.compile(r"blk\.\d+\.ffn_(up|down|gate|gate_up)_exps\.(weight|scale)")

_GATE: Final = re.compile(r"blk\.\d+\.ffn_gate_exps\.weight")


@dataclass(frozen=True)
class Home:
    """The device in whose memory something lives, and what put it there."""

    device: str
    cause: str


def placed_by(
    overrides: Sequence[Override], tensors: Mapping[str, TensorType], chosen: Mapping[str, Override]
) -> tuple[Given, ...]:
    """Each override with the tensors that it placed; `chosen` has the override of each tensor that one found."""
    return tuple(_given(override, overrides[:i], tensors, chosen) for i, override in enumerate(overrides))


def _given(
    override: Override,
    before: Sequence[Override],
    tensors: Mapping[str, TensorType],
    chosen: Mapping[str, Override],
) -> Given:
    what = f"-ot {override.text}"
    # One that is given twice has its effect the first time.
    found = [] if override in before else [n for n, by in chosen.items() if by == override]
    if found:
        return Given(what, len(found), sum(tensors[name].nbytes for name in found))
    takers = [by.text for name, by in chosen.items() if override.finds(name)]
    taken = f"every tensor it matches was taken by -ot {', '.join(dict.fromkeys(takers))}"
    return Given(what, 0, why=taken if takers else "matches no tensor")


def layers_given(
    tensors: Mapping[str, TensorType], homes: Mapping[str, Home], options: PlacementOptions
) -> Iterator[Given]:
    """What is asked for besides overrides and may have no effect."""
    for flag in options.experts_flags:
        names = [n for n in tensors if EXPERTS.fullmatch(n)]
        kept = [n for n in names if homes[n].cause == flag]
        where = "with experts is left to it on a device" if names else "has experts"
        yield Given(flag, len(kept), sum(tensors[n].nbytes for n in kept), f"no layer {where}")
    n_placed = sum(h.cause == options.layers_flag and h.device != HOST for h in homes.values())
    is_single, why = options.split_mode == "none", "it places nothing on a device"
    if options.tensor_split:
        what = f"-ts {listed(options.tensor_split)}"
        yield Given(what, 0 if is_single else n_placed, why="-sm none takes one device" if is_single else why)
    if options.main_gpu:
        yield Given(
            f"-mg {options.main_gpu}",
            n_placed if is_single else 0,
            why=why if is_single else "is for -sm none",
        )


def layers_apart(homes: Mapping[str, Home]) -> int:
    """Layers whose experts' up and gate live on two devices, so that one op for both needs a copy or is none."""
    gates = {name: name.replace("ffn_gate_exps", "ffn_up_exps") for name in homes if _GATE.fullmatch(name)}
    return sum(up in homes and homes[up].device != homes[gate].device for gate, up in gates.items())


def policy_given(policy: Policy, asked: Iterable[Tensor]) -> tuple[Given, ...]:
    """What -op and -op-rule say, with the number of nodes that it is about; `asked`: those with weights on the host."""
    if not isinstance(policy, OffloadPolicy) or (not policy.off and isinstance(policy.rule, MinBatch)):
        return ()
    counts = Counter(int(node.op) for node in asked)
    names = {int(op): op.name for op in every_op()}
    why = "no node with a weight in host memory is one"
    if policy.off == frozenset(names):
        return (Given("-op -1,0", counts.total(), why=_NO_WEIGHT),)
    given = [Given(f"-op {names[n]}=0", counts[n], why=why) for n in sorted(policy.off)]
    if not isinstance(policy.rule, MinBatch):
        flag = "-op" if isinstance(policy.rule, ByCost) else "-op-rule"
        given.append(Given(f"{flag} {policy.rule}", counts.total(), why=_NO_WEIGHT))
    return tuple(given)
