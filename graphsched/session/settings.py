"""The settings in effect, as plain values: what every result row and report carries."""

from collections import Counter
from typing import Any

from graphsched.option import shown
from graphsched.session.batching import batching
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.session import Session
from graphsched.session.switches import states
from graphsched.types.devices import HOST


def settings(options: SessionOptions) -> dict[str, Any]:
    """Every option with its effective value: numbers, booleans and texts, in the order of their declaration."""
    o = options
    effective = {"n_threads": o.threads, "n_ubatch": batching(o, o.n_ctx or o.n_batch).n_ubatch}
    return {**shown(o), **shown(o.placement), **states(o.off), **effective}


def described(session: Session) -> dict[str, Any]:
    """The settings of a session; n_gpu_layers counts the layers that are on devices."""
    placed = session.planner.homes.placement
    n_layers = sum(home != HOST for home in (*placed.layers, placed.output))
    return settings(session.options) | {"n_ctx": session.n_ctx, "n_gpu_layers": n_layers}


def model_described(model: Model) -> dict[str, Any]:
    """File, name, architecture, the type of most bytes, bytes and parameters."""
    sizes = Counter[str]()
    for t in model.types.values():
        sizes[t.dtype.name] += t.nbytes
    return {
        "model_filename": str(model.file.path),
        "model_name": model.name,
        "model_arch": model.arch_name,
        "model_type": sizes.most_common(1)[0][0],
        "model_size": sizes.total(),
        "model_n_params": sum(t.numel for t in model.types.values()),
    }
