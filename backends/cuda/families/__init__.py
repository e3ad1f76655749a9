"""Launches of each family of ops, and the lowerings that make them."""

from importlib import import_module
from pkgutil import iter_modules


def attach() -> None:
    """Attaches the lowerings of all families to their ops."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
