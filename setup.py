"""The packages, derived: `backends/` and `models/` lie beside `graphsched/` and are imported below it."""

from setuptools import find_packages, setup


def packages() -> list[str]:
    """Every folder with an `__init__.py`, by its import name."""
    found = find_packages(
        include=["graphsched", "graphsched.*"], exclude=["graphsched.backends*", "graphsched.models*"]
    )
    for top in ("backends", "models"):
        found += [f"graphsched.{top}", *(f"graphsched.{top}.{inner}" for inner in find_packages(top))]
    return found


if __name__ == "__main__":
    setup(packages=packages())
