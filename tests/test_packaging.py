"""The package as it is installed: all folders listed, data readable, no second copy under a bare name."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import levels
import pytest
import structure

ROOT = Path(__file__).resolve().parents[1]


def test_every_folder_with_code_is_a_package() -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a checkout")
    code = "import runpy; print(*runpy.run_path('setup.py')['packages']())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(done.stdout.split())
    found = set()
    for top, name in (
        ("graphsched", "graphsched"),
        ("backends", "graphsched.backends"),
        ("models", "graphsched.models"),
    ):
        for init in (ROOT / top).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / top).parts
            if not {"backends", "models"} & set(inner[:1]) or top != "graphsched":
                found.add(".".join((name, *inner)))
    assert listed == found


@pytest.mark.parametrize(
    ("package", "path"),
    [
        ("graphsched", "data/stories.gguf"),
        ("graphsched", "data/machines/rtx4090.toml"),
        ("graphsched", "data/serve.html"),
        ("graphsched", "py.typed"),
        ("graphsched.backends.cuda", "kernels/common.cuh"),
        ("graphsched.backends.cuda", "kernels/matmul.cu"),
    ],
)
def test_data_is_readable(package: str, path: str) -> None:
    assert files(package).joinpath(path).is_file()


def test_backends_and_models_are_not_imported_under_bare_names() -> None:
    code = "import graphsched.backends.cpu, graphsched.models.llama, sys; "
    code += "print({'backends', 'models'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_core_imports_no_backend_and_no_model() -> None:
    code = "import graphsched.schedule.scheduler, graphsched.graph.ops, graphsched.session.session, sys; "
    code += "far = ('graphsched.backends', 'graphsched.models', 'numba', 'cuda'); "
    code += "print([m for m in sys.modules if m.startswith(far)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_names_the_two_commands_that_ci_runs() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("not a checkout")
    commands = [
        line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("python3 -m venv")
    ]
    assert len(commands) == 2
    assert "graphsched run" in commands[0]
    assert " && .venv/bin/pytest -q" in commands[1]


def test_ruff_keeps_the_levels_apart() -> None:
    """Every folder of the core has its place in the table, and a ruff.toml that says so."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    inside = {p.parent.name for p in (ROOT / "graphsched").glob("*/__init__.py")} - {"backends", "models"}
    assert set(levels.folders()) == inside
    assert levels.differing() == []


def test_no_circle_of_folders_or_files() -> None:
    if not (ROOT / "backends").exists():
        pytest.skip("not a checkout")
    found = structure.modules(ROOT)
    graph = {name: structure.imports(module, found) for name, module in found.items()}
    assert structure.cycles(graph) == []
    assert structure.cycles(structure.folders(found, graph)) == []
