"""The settings in effect, as plain values: what every result row and report carries."""

from collections import Counter
from dataclasses import fields
from typing import Any, Final

from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.policy import parse_policy
from graphsched.session.model import Model
from graphsched.session.options import SWITCHES, SessionOptions
from graphsched.session.session import Session
from graphsched.types.devices import HOST

_HIDDEN: Final = ("placement", "off", "poison")  # shown by their parts; for tests


def settings(options: SessionOptions) -> dict[str, Any]:
    """Every option with its effective value: numbers, booleans and texts, in the order of their declaration."""
    o, p = options, options.placement
    given = {f.name: getattr(o, f.name) for f in fields(SessionOptions) if f.name not in _HIDDEN}
    given |= {f.name: getattr(p, f.name) for f in fields(PlacementOptions)}
    given |= {name.replace("-", "_"): name not in o.off for name in SWITCHES}
    context = o.n_ctx or o.n_batch
    given |= {
        "n_threads": o.threads,
        "n_ubatch": min(o.n_ubatch, o.n_batch, context),
        "devices": ",".join(o.devices),
        "offload_policy": str(parse_policy(o.offload_policy, o.offload_min_batch)),
        "overrides": ",".join(p.overrides),
        "tensor_split": "/".join(f"{share:g}" for share in p.tensor_split),
    }
    return given


def described(session: Session) -> dict[str, Any]:
    """The settings of a session: of layers on devices those that are there."""
    placed = session.targets.placement
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
