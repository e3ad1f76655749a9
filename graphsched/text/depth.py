"""How deep JSON values are."""

from collections.abc import Mapping
from typing import Any


def is_deeper(value: Any, most: int) -> bool:
    """Whether there are more than so many objects and lists inside of each other, the value itself counted."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True
