"""Counts the structure of a checkout: files per folder, import levels, cycles, long functions, docstrings, comments.

    python tools/structure.py                  this checkout
    python tools/structure.py BEFORE AFTER     two checkouts side by side
    python tools/structure.py --levels         the folders by level, and what each imports

Only what is imported when a module is loaded counts as an import: not what `TYPE_CHECKING` guards, nor what functions
import on use.
"""

import argparse
import ast
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = {"graphsched": "graphsched", "backends": "graphsched.backends", "models": "graphsched.models"}
OVERLOADED = ("join", "part", "turn")
Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Module:
    """A source file: its import name, its syntax tree, and its text."""

    name: str
    path: Path
    is_package: bool

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """The package that the file lies in; a package's own `__init__` lies in it."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def functions(self) -> list[ast.FunctionDef]:
        return [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]

    @property
    def public_functions(self) -> list[ast.FunctionDef]:
        """Functions of the module and methods of its public classes, without those that begin with an underscore."""
        bodies = [self.tree.body]
        bodies += [n.body for n in self.tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        return [n for body in bodies for n in body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]

    @property
    def comments(self) -> int:
        """Lines that are a comment, or end in one."""
        with self.path.open("rb") as file:
            return len({t.start[0] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT})


def modules(root: Path) -> dict[str, Module]:
    """The modules of a checkout by import name; those of symlinked folders under their real place only."""
    found = {}
    for top, package in TOPS.items():
        for path in sorted((root / top).rglob("*.py")):
            inner = path.relative_to(root / top).with_suffix("").parts
            if top == "graphsched" and inner[0] in ("backends", "models"):
                continue
            is_package = inner[-1] == "__init__"
            name = ".".join((package, *(inner[:-1] if is_package else inner)))
            found[name] = Module(name, path, is_package)
    return found


def imports(module: Module, known: Mapping[str, Module]) -> frozenset[str]:
    """The modules of the project that loading a module loads by its own statements."""
    found = set()
    for node in _loaded(module.tree.body):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names = (inner if inner in known else node.module for inner in full.values())
        found |= {name for name in names if name in known and name != module.name}
    return frozenset(found)


def _loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is loaded: not those in functions, nor under TYPE_CHECKING."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _loaded(node.body + node.orelse)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from _loaded(node.body)


def cycles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components), largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)


def levels(graph: Graph) -> dict[str, int]:
    """The level of each node: 1 without imports, else one above the highest that it imports; circles count once."""
    known: dict[str, int] = {}

    def level(node: str, above: frozenset[str]) -> int:
        if node not in known:
            below = (level(other, above | {node}) for other in graph[node] if other not in above)
            known[node] = 1 + max(below, default=0)
        return known[node]

    for node in graph:
        level(node, frozenset())
    return known


def folders(found: Mapping[str, Module], graph: Graph) -> Graph:
    """Which folder imports which; files at the top of the package count for themselves."""

    def room(name: str) -> str:
        folder = found[name].folder
        return name if folder == "graphsched" else folder

    inside: dict[str, set[str]] = {}
    for name, others in graph.items():
        inside.setdefault(room(name), set()).update(room(o) for o in others)
    return {folder: frozenset(others - {folder}) for folder, others in inside.items()}


def counts(root: Path) -> dict[str, str]:
    """What is counted of a checkout, as text by its row's name."""
    found = modules(root)
    graph = {name: imports(module, found) for name, module in found.items()}
    by_folder = folders(found, graph)
    files = [len(m.text.splitlines()) for m in found.values()]
    functions = [n for m in found.values() for n in m.functions]
    flat = {folder: sum(m.folder == folder for m in found.values()) for folder in set(_packages(found))}
    largest = sorted(flat.items(), key=lambda row: -row[1])[:3]
    rows = {
        "files": str(len(files)),
        "files at the top of graphsched": str(flat.get("graphsched", 0)),
        "files at the top of backends/cpu": str(flat.get("graphsched.backends.cpu", 0)),
        "files at the top of backends/cuda": str(flat.get("graphsched.backends.cuda", 0)),
        "largest folders": ", ".join(f"{name.removeprefix('graphsched.')} {n}" for name, n in largest),
        "import levels of folders": str(max(levels(by_folder).values())),
        "circles of folders": _groups(cycles(by_folder)),
        "longest import chain, files": str(max(levels(graph).values())),
        "circles of files": _groups(cycles(graph)),
        "median lines of a file": str(sorted(files)[len(files) // 2]),
        "files over 300 lines": str(sum(n > 300 for n in files)),
        "functions over 30 lines": str(sum(_length(n) > 30 for n in functions)),
        "median lines of a function": str(sorted(map(_length, functions))[len(functions) // 2]),
        "public functions without docstring": _undocumented(found.values()),
        "… in backends/cpu": _undocumented(m for m in found.values() if ".backends.cpu" in m.name),
        "lines with a comment": f"{100 * sum(m.comments for m in found.values()) / sum(files):.1f} %",
    }
    for word in OVERLOADED:
        rows[f"definitions named for {word!r}"] = str(_named(found.values(), word))
    return rows


def _packages(found: Mapping[str, Module]) -> Iterator[str]:
    return (module.folder for module in found.values())


def _groups(found: list[list[str]]) -> str:
    return f"{len(found)} ({', '.join(str(len(group)) for group in found)})" if found else "0"


def _length(function: ast.FunctionDef) -> int:
    """Lines from `def` to the end; kernels are functions inside functions and count for themselves, too."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _undocumented(found: Iterable[Module]) -> str:
    public = [n for m in found for n in m.public_functions]
    return f"{100 * sum(ast.get_docstring(n) is None for n in public) / max(1, len(public)):.0f} %"


def _named(found: Iterable[Module], word: str) -> int:
    """Functions and classes whose name has the word, as it is or inflected (join, joins, joined, Joined)."""
    pattern = re.compile(rf"(?:^|_){word}(?:s|ed|ing)?(?:_|$)|^{word.title()}(?:s|ed)?(?:[A-Z]|$)")
    kinds = (ast.FunctionDef, ast.ClassDef)
    return sum(bool(pattern.search(n.name)) for m in found for n in ast.walk(m.tree) if isinstance(n, kinds))


def table(columns: list[dict[str, str]]) -> str:
    """The rows, a column for each checkout."""
    wide = max(len(name) for name in columns[0])
    widths = [max(len(v) for v in column.values()) for column in columns]
    return "\n".join(
        "  ".join([name.ljust(wide), *(c[name].rjust(w) for c, w in zip(columns, widths, strict=True))])
        for name in columns[0]
    )


def show_levels(root: Path) -> str:
    """Each folder with its level and the folders that it imports."""
    found = modules(root)
    by_folder = folders(found, {name: imports(module, found) for name, module in found.items()})
    level = levels(by_folder)

    def short(name: str) -> str:
        return name.removeprefix("graphsched.")

    rows = sorted(by_folder, key=lambda name: (level[name], name))
    lines = [
        f"{level[name]:2}  {short(name)} -> {' '.join(sorted(map(short, by_folder[name])))}" for name in rows
    ]
    return "\n".join([*lines, *(f"circle: {' '.join(map(short, group))}" for group in cycles(by_folder))])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roots", nargs="*", type=Path, default=[ROOT], help="checkouts, this one by default")
    parser.add_argument("--levels", action="store_true", help="folders by level, of the last checkout")
    options = parser.parse_args(argv)
    for root in options.roots:
        if not (root / "graphsched").is_dir():
            parser.error(f"{root} has no folder graphsched")
    print(
        show_levels(options.roots[-1]) if options.levels else table([counts(root) for root in options.roots])
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
