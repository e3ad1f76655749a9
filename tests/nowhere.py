"""Addresses for tests that look at launches and never run them."""

from typing import Any

from graphsched.run.operand import Places


class Nowhere(Places):
    """Addresses that nobody follows."""

    def address(self, operand: Any) -> int:
        return 0
