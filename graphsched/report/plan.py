"""A plan for people and for programs: memory per device, splits, nodes with causes, predicted times."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.graph.tensor import Tensor
from graphsched.predict.plan import Plan, bound_by
from graphsched.run.lowering import is_python_step
from graphsched.schedule.causes import meaning
from graphsched.schedule.scheduler import Copy, Split
from graphsched.session.options import SessionOptions
from graphsched.session.switches import states
from graphsched.types.devices import HOST


def as_data(plan: Plan, nodes: bool = True) -> dict[str, Any]:
    """The plan as plain data, bytes and seconds."""
    timeline = plan.timeline
    return {
        "model": plan.model.name,
        "architecture": plan.model.arch_name,
        "lengths": dict(plan.lengths),
        "settings": _settings(plan.options),
        "devices": {
            d: {"weights": m.weights, "kv": m.kv, "arena": m.arena, "staging": m.staging, "peak": m.peak}
            for d, m in plan.memory.items()
        },
        "policy": str(plan.planner.policy),
        "splits": [_split_data(plan, i, split, nodes) for i, split in enumerate(plan.schedule.splits)],
        "predicted": None
        if timeline is None
        else {
            "machine": plan.machine and plan.machine.name,
            "wall": timeline.wall,
            "overhead": timeline.overhead,
        },
    }


def _split_data(plan: Plan, i: int, split: Split, nodes: bool) -> dict[str, Any]:
    events = plan.split_events(i)
    data: dict[str, Any] = {
        "device": split.device,
        "inputs": [
            {
                "name": name_of(plan, c.source),
                "from": c.from_device,
                "to": c.to_device,
                "bytes": copied(plan, c),
            }
            for c in split.inputs
        ],
        "seconds": sum(e.end - e.start for e in events if e.kind == "compute") if events else None,
        "copy_seconds": sum(e.end - e.start for e in events if e.kind != "compute") if events else None,
    }
    if nodes:
        data["nodes"] = [
            {
                "op": n.op.name,
                "name": name_of(plan, n),
                "label": plan.schedule.graph.labels[n],
                "cause": plan.cause(n),
                "runs": "python step" if is_python_step(n) else "kernel",
            }
            for n in real_nodes(plan, split)
        ]
    return data


def name_of(plan: Plan, tensor: Tensor) -> str:
    """A tensor's name in the plan's graph."""
    return plan.schedule.graph.names.get(tensor, tensor.name)


def real_nodes(plan: Plan, split: Split) -> Iterator[Tensor]:
    """Nodes of the graph in a split, without views."""
    for node in split.nodes:
        old = plan.schedule.origin.get(node)
        if old is not None and not old.traits.view:
            yield old


def copied(plan: Plan, copy: Copy) -> int:
    """Bytes that a copy moves; of experts, those expected to be used."""
    if copy.ids is None or plan.timeline is None:
        return plan.bytes_of(copy.source)
    name = name_of(plan, copy.source)
    return int(next(e.nbytes for e in plan.timeline.events if e.op == "COPY" and e.name == name))


def render(plan: Plan, nodes: bool = False) -> RenderableType:
    """Tables for a terminal."""
    parts: list[RenderableType] = [Text(_headline(plan)), _memory_table(plan), _split_table(plan)]
    if nodes:
        parts.append(_node_table(plan))
    if plan.timeline is not None:
        parts.append(Text(_prediction(plan)))
    return Group(*parts)


def _headline(plan: Plan) -> str:
    lengths = ", ".join(f"{k} {v}" for k, v in plan.lengths.items())
    off = f"; off: {', '.join(sorted(plan.options.off))}" if plan.options.off else ""
    return f"{plan.model.summary(plan.options)}\n{lengths}; {len(plan.schedule.splits)} splits{off}"


def _settings(options: SessionOptions) -> dict[str, Any]:
    """What changes the graph: the switches, and how latents and windows are cached."""
    return {**states(options.off), "mla": options.mla, "swa_full": options.swa_full}


def _memory_table(plan: Plan) -> Table:
    table = Table("device", title="memory", title_justify="left")
    for column in ("weights", "KV", "arena", "staging", "total"):
        table.add_column(column, justify="right")
    table.add_column("arena's peak at")
    for on, m in plan.memory.items():
        table.add_row(
            on, *(megabytes(b) for b in (m.weights, m.kv, m.arena, m.staging, m.total)), Text(m.peak)
        )
    return table


def _split_table(plan: Plan) -> Table:
    table = Table("split", "device", "nodes", title="splits", title_justify="left")
    for column in ("inputs", "bytes in", "compute µs", "copy µs"):
        table.add_column(column, justify="right")
    table.add_column("bound by")
    table.add_column("first … last node")
    for i, split in enumerate(plan.schedule.splits):
        names = [name_of(plan, n) for n in real_nodes(plan, split)]
        ends = " … ".join(dict.fromkeys([names[0], names[-1]])) if names else ""
        moved = sum(copied(plan, c) for c in split.inputs)
        row = [str(i), split.device, str(len(names)), str(len(split.inputs)), megabytes(moved)]
        table.add_row(*row, *_times(plan, i, split), Text(ends))
    return table


def _times(plan: Plan, i: int, split: Split) -> tuple[str, str, str]:
    events = plan.split_events(i)
    if plan.machine is None:
        return "", "", ""
    compute = sum(e.end - e.start for e in events if e.kind == "compute")
    copies = sum(e.end - e.start for e in events if e.kind in ("up", "down"))
    processor = plan.processor(split.device)
    return f"{compute * 1e6:.1f}", f"{copies * 1e6:.1f}", bound_by(events, processor)


def _node_table(plan: Plan) -> Table:
    table = Table("split", "device", "op", "node", "type", "cause", title="nodes", title_justify="left")
    for i, split in enumerate(plan.schedule.splits):
        for copy in split.inputs:
            table.add_row(str(i), *_copy_cells(plan, copy))
        for n in real_nodes(plan, split):
            table.add_row(
                str(i),
                split.device,
                n.op.name,
                Text(name_of(plan, n)),
                Text(str(n.type)),
                Text(cause(plan, n)),
            )
    for copy in plan.schedule.results:
        table.add_row("end", *_copy_cells(plan, copy))
    return table


def _copy_cells(plan: Plan, copy: Copy) -> tuple[str | Text, ...]:
    name, type = Text(name_of(plan, copy.source)), Text(str(copy.source.type))
    what = ", the experts that the ids name" if copy.ids else ""
    return copy.to_device, "copy", name, type, f"from {copy.from_device}{what}"


def cause(plan: Plan, node: Tensor) -> str:
    """The cause as the scheduler has it, and its meaning."""
    short = plan.cause(node)
    if is_python_step(node):
        return f"{short}: no kernel, a Python step on the host"
    weight = next((s for s in node.sources if s.kind == "weight"), None)
    if short.startswith("1.wgt") and weight is not None:
        why = plan.planner.homes.of(weight).cause
        packed = ", not offloadable (repacked)" if weight.dtype.interleave > 1 else ""
        return f"{short}: {weight.name} is there ({why}{packed})"
    return meaning(short)


def _prediction(plan: Plan) -> str:
    timeline, machine = plan.timeline, plan.machine
    assert timeline is not None
    assert machine is not None
    wall = timeline.wall
    rows = plan.lengths["n_tokens"]
    lanes = [
        f"{lane} {timeline.busy('compute', lane=lane) / wall:.0%}" for lane in (*plan.planner.devices, HOST)
    ]
    return (
        f"predicted on {machine.name}: {wall * 1e3:.3f} ms, {rows / wall:.1f} tokens/s; "
        f"busy {', '.join(lanes)}; copies {timeline.busy('up', 'down') / wall:.0%}, "
        f"overhead {timeline.overhead / wall:.1%}"
    )


def megabytes(n: float) -> str:
    """1.2 kB, 3.4 MB, 5.6 GB"""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.1f} {name}"
    return f"{int(n)} B"


def difference(old: Plan, new: Plan) -> dict[str, Any]:
    """What changes from one plan to another: nodes that move, bytes, splits, predicted time."""
    before, after = _devices(old), _devices(new)
    moved = [
        {"name": name, "from": before.get(name), "to": after.get(name)}
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
    return {
        "moved": moved,
        "splits": [len(old.schedule.splits), len(new.schedule.splits)],
        "bytes_copied": [_copied_bytes(old), _copied_bytes(new)],
        "seconds": [old.timeline.wall if old.timeline else None, new.timeline.wall if new.timeline else None],
    }


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
    return Group(table, Text("; ".join(lines)))
