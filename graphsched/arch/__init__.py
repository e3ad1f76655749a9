"""The names that architecture files import (public)."""

from graphsched.arch.config import Config, key
from graphsched.arch.inputs import Inputs
from graphsched.arch.registry import EVERY_SCALE, QKV, SCALED, Architecture, architecture, get, names
from graphsched.arch.stored import Derived
from graphsched.arch.weights import Weights

__all__ = [
    "EVERY_SCALE",
    "QKV",
    "SCALED",
    "Architecture",
    "Config",
    "Derived",
    "Inputs",
    "Weights",
    "architecture",
    "get",
    "key",
    "names",
]
