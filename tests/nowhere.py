"""Addresses for tests that look at launches and never run them."""

from typing import Any

from graphsched.run.operand import Addresses


class Nowhere(Addresses):
    """Addresses that nobody follows."""

    def address(self, operand: Any) -> int:
        return 0
