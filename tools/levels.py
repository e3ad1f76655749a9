"""The levels of the house: which folders a file may import, kept apart by ruff.

    python tools/levels.py           writes a ruff.toml into each folder of graphsched/
    python tools/levels.py --check   says which of them differ, exit code 1

A file imports its own folder and what stands above it in this table, on the same line nothing else.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (
    ("errors",),
    ("env", "option", "types"),
    ("gguf",),
    ("disk_cache", "graph", "text"),
    ("arch", "schedule"),
    ("quantize", "run"),
    ("synth", "check", "machine"),
    ("session",),
    ("predict", "convert"),
    ("fit", "measure", "library"),
    ("report",),
    ("serve",),
    ("cli",),
)
SETTINGS = ("lint", "flake8-tidy-imports", "banned-api")


def folders() -> list[str]:
    """The folders of the table; files beside them are one level of one file."""
    return [name for level in LEVELS for name in level if (ROOT / "graphsched" / name).is_dir()]


def banned(folder: str) -> dict[str, str]:
    """What a file of a folder must not import, and why."""
    level = next(i for i, names in enumerate(LEVELS) if folder in names)
    above = {name: f"{folder} lies below {name}" for names in LEVELS[level + 1 :] for name in names}
    beside = {
        name: f"{folder} and {name} know nothing of each other" for name in LEVELS[level] if name != folder
    }
    return {f"graphsched.{name}": why for name, why in (beside | above).items()}


def everywhere() -> dict[str, str]:
    """What the whole core must not import."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    for name in SETTINGS:
        found = found[name]
    return {module: entry["msg"] for module, entry in found.items()}


def config(folder: str) -> str:
    """The ruff.toml of a folder."""
    lines = [f'"{module}".msg = "{why}"' for module, why in (everywhere() | banned(folder)).items()]
    head = '# Written by tools/levels.py.\nextend = "../../pyproject.toml"\n\n[lint.flake8-tidy-imports.banned-api]'
    return "\n".join([head, *lines]) + "\n"


def differing() -> list[Path]:
    """Files that are not as the table says."""
    wanted = {ROOT / "graphsched" / name / "ruff.toml": config(name) for name in folders()}
    return [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]


def main(argv: list[str]) -> int:
    found = differing()
    if argv == ["--check"]:
        print(*(f"{path.relative_to(ROOT)} differs: python tools/levels.py" for path in found), sep="\n")
        return int(bool(found))
    if argv:
        print(__doc__, file=sys.stderr)
        return 2
    for path in found:
        path.write_text(config(path.parent.name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
