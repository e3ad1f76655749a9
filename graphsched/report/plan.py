"""A plan for people and for programs: memory per device, splits, nodes with causes, predicted times."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.graph.tensor import Tensor
from graphsched.predict.memory import megabytes
from graphsched.predict.plan import Plan, bound_by
from graphsched.predict.session import SessionPlan, session_of
from graphsched.predict.together import Together
from graphsched.report.memory import given_table, memory_parts
from graphsched.run.lowering import is_python_step
from graphsched.schedule.causes import meaning
from graphsched.schedule.scheduler import Copy, Split
from graphsched.session.options import SessionOptions
from graphsched.session.switches import states
from graphsched.types.devices import HOST


def as_data(plan: Plan, nodes: bool = True, about: SessionPlan | None = None) -> dict[str, Any]:
    """The plan as plain data, bytes and seconds. about: its session, if that is known already."""
    timeline, about = plan.timeline, about or session_of(plan)
    return {
        "model": plan.model.name,
        "architecture": plan.model.arch_name,
        "lengths": plan.shown_lengths,
        "settings": _settings(plan.options),
        "devices": {on: need.as_json() for on, need in about.needs.items()},
        "fits": all(need.fits for need in about.needs.values()),
        "shares": dict(zip(plan.planner.devices, plan.planner.homes.placement.shares, strict=True)),
        "given": [given.as_json() for given in about.given],
        "policy": str(plan.planner.policy),
        "splits": [_split_data(plan, i, split, nodes) for i, split in enumerate(plan.schedule.splits)],
        "predicted": None
        if timeline is None
        else {
            "machine": plan.machine and plan.machine.name,
            "wall": timeline.wall,
            "overhead": timeline.overhead,
        },
        "prompt": None if about.prompt is None else about.prompt.as_json(),
        "together": [each.as_json() for each in about.together],
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
                "auto": plan.planner.why(n, plan.lengths) or None,
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


def render(plan: Plan, nodes: bool = False, about: SessionPlan | None = None) -> RenderableType:
    """Tables for a terminal. about: the plan's session, if that is known already."""
    about = about or session_of(plan)
    parts: list[RenderableType] = [Text(_headline(plan, about)), *memory_parts(plan, about)]
    if about.given:
        parts.append(given_table(about.given))
    parts.append(_split_table(plan))
    if nodes:
        parts.append(_node_table(plan))
    if plan.timeline is not None:
        parts.append(Text(prediction(plan, about)))
    if about.together:
        parts.append(together_table(about.together))
    return Group(*parts)


def _headline(plan: Plan, about: SessionPlan) -> str:
    lengths = ", ".join(f"{k} {v}" for k, v in plan.shown_lengths.items())
    of_them = f" (the first of {about.prompt})" if about.prompt else ""
    off = f"; off: {', '.join(sorted(plan.options.off))}" if plan.options.off else ""
    return f"{plan.model.summary(plan.options)}\n{lengths}{of_them}; {len(plan.schedule.splits)} splits{off}"


def _settings(options: SessionOptions) -> dict[str, Any]:
    """What changes the graph: the switches, and how latents and windows are cached."""
    return {**states(options.off), "mla": options.mla, "swa_full": options.swa_full}


def together_table(steps: Iterable[Together]) -> Table:
    """A step of so many sequences, each with one token: its time, speeds, and the experts that a layer reads."""
    table = Table(title="generating together, predicted", title_justify="left")
    for column in ("sequences", "ms", "tokens/s", "each", "experts per layer"):
        table.add_column(column, justify="right")
    for step in steps:
        times = (step.seconds * 1e3, step.speed, step.speed / step.n)
        shown = (f"{t:.{d}f}" if step.seconds else "" for t, d in zip(times, (3, 1, 1), strict=True))
        experts = "{:.1f} of {}".format(*step.experts) if step.experts else ""
        table.add_row(str(step.n), *shown, experts)
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
    """The cause as the scheduler has it, and its meaning; behind it what `auto` decided, if it was asked."""
    return "; ".join(filter(None, (_cause(plan, node), plan.planner.why(node, plan.lengths))))


def _cause(plan: Plan, node: Tensor) -> str:
    short = plan.cause(node)
    if is_python_step(node):
        return f"{short}: no kernel, a Python step on the host"
    weight = next((s for s in node.sources if s.kind == "weight"), None)
    if short.startswith("1.wgt") and weight is not None:
        why = plan.planner.homes.of(weight).cause
        packed = ", not offloadable (repacked)" if weight.dtype.interleave > 1 else ""
        return f"{short}: {weight.name} is there ({why}{packed})"
    return meaning(short)


def prediction(plan: Plan, about: SessionPlan) -> str:
    """The predicted time on the described machine, and the shares of it that devices and links are busy, as a line."""
    timeline, machine = plan.timeline, plan.machine
    assert timeline is not None
    assert machine is not None
    prompt = about.prompt
    wall = timeline.wall
    seconds, rows = (prompt.seconds, prompt.n_tokens) if prompt else (wall, plan.lengths["n_tokens"])
    condition = "" if about.fits else ", if it did fit"
    lanes = [
        f"{lane} {timeline.busy('compute', lane=lane) / wall:.0%}" for lane in (*plan.planner.devices, HOST)
    ]
    return (
        f"predicted on {machine.name}{condition}: {seconds * 1e3:.3f} ms, {rows / seconds:.1f} tokens/s; "
        f"{'the first micro-batch: ' if prompt else ''}"
        f"busy {', '.join(lanes)}; copies {timeline.busy('up', 'down') / wall:.0%}, "
        f"overhead {timeline.overhead / wall:.1%}"
    )
