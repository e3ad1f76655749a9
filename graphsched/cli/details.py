"""Details of a session for -v: model, options, memory, and causes of placement."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphsched.session.session import Session


def details(session: "Session") -> "Iterator[str]":
    """Lines for -v: the model, the options in effect, buffers per device, and causes of placement."""
    yield session.model.summary()
    yield described(session)
    yield from buffers(session)
    yield from causes(session)
    yield from repacking(session)


def described(session: "Session") -> str:
    """The effective options in one line."""
    o = session.options
    return (
        f"backend {o.backend}, {o.threads} threads, context {session.n_ctx}, batch {o.n_batch}, "
        f"micro-batch {o.n_ubatch}, cache {o.type_k}/{o.type_v}, off: {', '.join(sorted(o.off)) or 'none'}"
    )


def buffers(session: "Session") -> "Iterator[str]":
    """Memory of each device: weights, KV cache, and the largest compute buffer, which a full micro-batch takes."""
    from graphsched.predict.plan import make_plan

    n = min(session.options.n_ubatch, session.n_ctx)
    plan = make_plan(session.model, session.options, n, 1, n)
    for device, held in plan.memory.items():
        parts = ("weights", held.weights), ("KV", held.kv), ("compute", held.arena), ("staging", held.staging)
        sizes = ", ".join(f"{name} {size / 2**20:.2f} MiB" for name, size in parts if size)
        yield f"{device} buffers: {sizes or 'none'}"
    copies = sum(len(split.inputs) for split in plan.schedule.splits)
    yield f"graph nodes {len(plan.schedule.graph.nodes)}, splits {len(plan.schedule.splits)}, copies {copies}"


def causes(session: "Session") -> "Iterator[str]":
    """Lines that count tensors by device and cause."""
    homes = session.planner.homes.placement.homes
    found = Counter((homes[name].device, homes[name].cause) for name in session.model.types if name in homes)
    for (device, cause), count in found.most_common():
        yield f"{count} tensor{'s' if count > 1 else ''} on {device}: {cause}"


def repacking(session: "Session") -> "Iterator[str]":
    """What -rtr does, and why not with the rest."""
    if session.options.rtr == "off":
        return
    packed = session.repacked
    size = sum(session.model.types[name].nbytes for name in packed if name in session.model.types)
    kinds = ", ".join(sorted({type.name for type in packed.values()})) or "none"
    rest = "the others have no such type, are read by rows, live on a device" + (
        ", may be offloaded, or do not fit into half the memory" if session.options.rtr == "auto" else ""
    )
    yield f"-rtr {session.options.rtr}: {len(packed)} weights repacked, {size / 2**20:.2f} MiB ({kinds}); {rest}"
