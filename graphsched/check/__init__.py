"""What checks a run: nodes against references, invariants of schedules, dumps."""
