"""Details of a session for -v: model, options, memory, and causes of placement."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphsched.predict.memory import Need
    from graphsched.session.session import Session


def details(session: "Session") -> "Iterator[str]":
    """Lines for -v: the model, the options in effect, buffers per device, and causes of placement."""
    yield session.model.summary()
    yield described(session)
    yield from memory(session)
    yield from causes(session)
    yield from repacking(session)


def described(session: "Session") -> str:
    """The effective options in one line."""
    o = session.options
    return (
        f"backend {o.backend}, {o.threads} threads, context {session.n_ctx}, batch {o.n_batch}, "
        f"micro-batch {session.engine.n_ubatch}, cache {o.type_k}/{o.type_v}, off: {', '.join(sorted(o.off)) or 'none'}"
    )


def memory(session: "Session") -> "Iterator[str]":
    """Memory of each device: weights, caches, and the largest compute buffers of all runs; then a micro-batch's plan.

    Also what was asked for with its effect, and the shares by which layers were shared out.
    """
    from graphsched.predict.memory import megabytes
    from graphsched.predict.plan import make_plan
    from graphsched.predict.session import session_of
    from graphsched.report.memory import shared_out

    reading, planner = session.engine.batching, session.planner
    plan = make_plan(
        session.model, session.options, reading.n_ubatch, 1, reading.n_ctx, memory=planner.capacities
    )
    about = session_of(plan)
    for device, need in about.needs.items():
        yield f"{device} buffers: {_sizes(need) or 'none'}"
    copies = sum(len(split.inputs) for split in plan.schedule.splits)
    yield f"graph nodes {len(plan.schedule.graph.nodes)}, splits {len(plan.schedule.splits)}, copies {copies}"
    if line := shared_out(planner):
        yield line
    for given in about.given:
        yield f"{given.what}: {given.hits} hits" + (f", {megabytes(given.nbytes)}" if given.nbytes else "")


def _sizes(need: "Need") -> str:
    parts = ("weights", need.weights + need.derived), ("KV", need.kv)
    more = ("state", need.state), ("compute", need.arena), ("staging", need.staging)
    return ", ".join(f"{name} {size / 2**20:.2f} MiB" for name, size in (*parts, *more) if size)


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
