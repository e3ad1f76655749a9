"""graphsched: a ggml-style computation-graph scheduler in Python."""

from typing import TYPE_CHECKING, Any, Final

from graphsched.errors import ContextError, Error, LoadError, OptionError, ShapeError

if TYPE_CHECKING:
    from graphsched import ops as ops
    from graphsched.graph.tensor import f32, input_tensor, weight
    from graphsched.library import Plan, make_graph, plan
    from graphsched.schedule.policy import Policy
    from graphsched.session.session import Session, load
    from graphsched.text.options import SamplingOptions

__version__ = "0.1.0"
__all__ = [
    "ContextError",
    "Error",
    "LoadError",
    "OptionError",
    "Plan",
    "Policy",
    "SamplingOptions",
    "Session",
    "ShapeError",
    "f32",
    "input_tensor",
    "load",
    "make_graph",
    "ops",
    "plan",
    "weight",
]

_LAZY: Final = {
    "Plan": "library",
    "Policy": "schedule.policy",
    "SamplingOptions": "text.options",
    "Session": "session.session",
    "f32": "graph.tensor",
    "input_tensor": "graph.tensor",
    "load": "session.session",
    "make_graph": "library",
    "ops": "",
    "plan": "library",
    "weight": "graph.tensor",
}


def __getattr__(name: str) -> Any:
    """Numba and numpy are imported on first use, so that `graphsched --help` does not wait for them."""
    if name not in _LAZY:
        raise AttributeError(f"module 'graphsched' has no attribute {name!r}")
    from importlib import import_module

    module = _LAZY[name]
    return (
        getattr(import_module(f"graphsched.{module}"), name)
        if module
        else import_module(f"graphsched.{name}")
    )
