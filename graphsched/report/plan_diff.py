"""What changes from one plan to another, as data and as a table."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.graph.tensor import Tensor
from graphsched.predict.memory import megabytes
from graphsched.predict.plan import Plan
from graphsched.predict.session import SessionPlan, session_of
from graphsched.report.plan import copied


def difference(
    old: Plan, new: Plan, was: SessionPlan | None = None, would: SessionPlan | None = None
) -> dict[str, Any]:
    """Nodes that move, splits, memory, and of all runs of the prompt bytes and predicted time.

    was, would: the sessions of both plans, if they are known already.
    """
    was, would = was or session_of(old), would or session_of(new)
    before, after = _devices(old), _devices(new)
    moved = [
        {"name": name, "from": before.get(name), "to": after.get(name)}
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
    both = [
        session.prompt.plans if session.prompt else (plan,) for plan, session in ((old, was), (new, would))
    ]
    return {
        "moved": moved,
        "splits": [len(old.schedule.splits), len(new.schedule.splits)],
        "bytes_copied": [sum(map(_copied_bytes, plans)) for plans in both],
        "seconds": [_seconds(plans) for plans in both],
        "memory": [{on: need.as_json() for on, need in s.needs.items()} for s in (was, would)],
    }


def _seconds(plans: tuple[Plan, ...]) -> float | None:
    walls = [plan.timeline.wall for plan in plans if plan.timeline]
    return sum(walls) if walls else None


def _devices(plan: Plan) -> dict[str, str]:
    return {
        plan.schedule.graph.names[n]: d for n, d in plan.schedule.assignment.device.items() if _is_work(n)
    }


def _is_work(node: Tensor) -> bool:
    """Whether a node is listed: not views, nor multi-result ops, whose PARTs are listed instead."""
    return not node.traits.view and node.declaration.compose is None


def _copied_bytes(plan: Plan) -> int:
    return sum(copied(plan, c) for s in plan.schedule.splits for c in s.inputs)


def render_difference(change: dict[str, Any]) -> RenderableType:
    """The difference of two plans as a table."""
    table = Table("node", "was on", "would be on", title="what changes", title_justify="left")
    for row in change["moved"]:
        table.add_row(Text(row["name"]), row["from"] or "not computed", row["to"] or "not computed")
    (s0, s1), (b0, b1), (t0, t1) = change["splits"], change["bytes_copied"], change["seconds"]
    lines = [f"splits {s0} -> {s1}; copied {megabytes(b0)} -> {megabytes(b1)}"]
    if t0 is not None and t1 is not None:
        lines.append(f"predicted {t0 * 1e3:.3f} ms -> {t1 * 1e3:.3f} ms ({t1 / t0 - 1:+.1%})")
    what = table if change["moved"] else Text("no node moves")
    return Group(what, Text("; ".join(lines)), Text("memory " + ", ".join(_memory(*change["memory"]))))


def _memory(was: dict[str, Any], would: dict[str, Any]) -> list[str]:
    """For each device what a session takes before and after, and what does not fit."""
    return [
        f"{on} {' -> '.join(_size(needs.get(on)) for needs in (was, would))}"
        for on in dict.fromkeys((*was, *would))
    ]


def _size(need: dict[str, Any] | None) -> str:
    if need is None:
        return "nothing"
    return megabytes(need["total"]) + ("" if need["fits"] else f" (of {megabytes(need['of'])})")
