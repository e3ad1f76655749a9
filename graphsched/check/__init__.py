"""Checks of runs: nodes against references, invariants of schedules, dumps."""
