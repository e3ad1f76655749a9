"""graphsched: a ggml-style computation-graph scheduler in Python."""

from typing import TYPE_CHECKING, Any

from graphsched.errors import ContextError, Error, LoadError, OptionError, ShapeError

if TYPE_CHECKING:
    from graphsched.session.session import Session, load
    from graphsched.text.options import SamplingOptions

__version__ = "0.1.0"
__all__ = [
    "ContextError",
    "Error",
    "LoadError",
    "OptionError",
    "SamplingOptions",
    "Session",
    "ShapeError",
    "load",
]

_LAZY = {"load": "session.session", "Session": "session.session", "SamplingOptions": "text.options"}


def __getattr__(name: str) -> Any:
    """Numba and numpy are imported on first use, so that `graphsched --help` does not wait for them."""
    if name not in _LAZY:
        raise AttributeError(f"module 'graphsched' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"graphsched.{_LAZY[name]}"), name)
