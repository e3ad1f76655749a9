"""What a session takes of each device, and what was asked for with its effect, as tables."""

from collections.abc import Collection, Iterable, Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.gguf.given import Given
from graphsched.predict.memory import Need, megabytes
from graphsched.predict.plan import Plan
from graphsched.predict.session import SessionPlan
from graphsched.schedule.options import listed
from graphsched.session.planner import Planner


def memory_parts(plan: Plan, session: SessionPlan) -> Iterator[RenderableType]:
    """The table of memory, the shares by which layers were shared out, and a sentence for each that does not fit."""
    yield _memory_table(session.needs.values())
    if line := shared_out(plan.planner):
        yield Text(line)
    yield from (Text(need.sentence) for need in session.needs.values() if not need.fits)


def shared_out(planner: Planner) -> str:
    """The shares by which layers went to devices, and where they are from; empty for one device."""
    shares, asked = planner.homes.placement.shares, planner.options.placement
    if not shares[1:] or asked.split_mode == "none":
        return ""
    why = "-ts" if asked.tensor_split else "equal memory" if len(set(shares)) == 1 else "GB of memory"
    return f"layers are shared out {listed([float(f'{share:.3g}') for share in shares], '/')} ({why})"


def _memory_table(needs: Collection[Need]) -> Table:
    table = Table("device", title="memory of a session", title_justify="left")
    kept = ("KV", "state") if any(need.state for need in needs) else ("KV",)
    for column in ("weights", *kept, "arena", "staging", "total", "of", "free"):
        table.add_column(column, justify="right")
    table.add_column("arena's peak at")
    for need in needs:
        caches = (need.kv, need.state)[: len(kept)]
        sizes = (need.weights + need.derived, *caches, need.arena, need.staging, need.total)
        there = ("" if n is None else megabytes(n) for n in (need.has, need.left))
        table.add_row(need.device, *map(megabytes, sizes), *there, Text(need.peak))
    return table


def given_table(given: Iterable[Given]) -> Table:
    """What was asked for, how many tensors, layers or nodes it was about, and why it had no effect if it had none."""
    table = Table("given", title="effects", title_justify="left")
    table.add_column("hits", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("without effect because")
    for g in given:
        size = megabytes(g.nbytes) if g.nbytes else ""
        table.add_row(Text(g.what), str(g.hits), size, Text("" if g.hits else g.why))
    return table
