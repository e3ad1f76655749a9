"""The kernel cache: an edited intrinsic recompiles, nothing else does."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphsched
from graphsched import env

PACKAGE = Path(graphsched.__file__).resolve().parent
RUN = """
import numpy as np
from graphsched.backends.cpu.norm import rms_norm_f32
kernel = rms_norm_f32(0)
kernel.address
print("hit" if kernel.was_cached else "miss")
"""
PACK = """
from graphsched.types import dtypes
from graphsched.backends.cuda.packing.parts import packing
from graphsched.graph.tensor import TensorType
kernel = packing(TensorType(dtypes.by_name("Q4_0"), (2, 32))).kernel
kernel.address
print("hit" if kernel.was_cached else "miss")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package whose sources a test may edit."""
    root = tmp_path / "checkout"
    shutil.copytree(
        PACKAGE, root / "graphsched", symlinks=False, ignore=shutil.ignore_patterns("__pycache__", "data")
    )
    if not (root / "graphsched" / "backends").exists():  # an installed mapping without symlinks
        for name in ("backends", "models"):
            module = __import__(f"graphsched.{name}", fromlist=["_"])
            shutil.copytree(Path(str(module.__file__)).parent, root / "graphsched" / name)
    return root


def run(root: Path, code: str = RUN, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(root), "GRAPHSCHED_CACHE_DIR": str(root / "cache"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_edited_intrinsic_recompiles_the_kernels(copy: Path) -> None:
    assert run(copy) == "miss"
    assert run(copy) == "hit"
    simd = copy / "graphsched" / "backends" / "cpu" / "language" / "simd.py"
    simd.write_text(simd.read_text() + "\n# an edit\n")
    assert run(copy) == "miss"
    assert run(copy) == "hit"


def test_kernels_that_pack_have_sources_of_their_own(copy: Path) -> None:
    """An edit there compiles them again, and none of the CPU's; an edit of what both are made of compiles both."""
    assert (run(copy), run(copy, PACK)) == ("miss", "miss")
    assert (run(copy), run(copy, PACK)) == ("hit", "hit")
    backends = copy / "graphsched" / "backends"
    blocks, simd = backends / "cuda" / "packing" / "blocks.py", backends / "cpu" / "language" / "simd.py"
    blocks.write_text(blocks.read_text() + "\n# an edit\n")
    assert (run(copy), run(copy, PACK)) == ("hit", "miss")
    simd.write_text(simd.read_text() + "\n# an edit\n")
    assert (run(copy), run(copy, PACK)) == ("miss", "miss")


def test_another_target_does_not_load_these_kernels(copy: Path) -> None:
    assert run(copy) == "miss"
    assert run(copy, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == "miss"
    assert run(copy) == "hit"


def test_nothing_compiles_at_import() -> None:
    code = (
        "import graphsched.backends.cpu as b, gc; from graphsched.backends.cpu.language.jit import Kernel; "
    )
    code += "print(sum('compiled' in vars(o) for o in gc.get_objects() if isinstance(o, Kernel)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_versions_and_variants_do_not_share_files(copy: Path) -> None:
    """Else two processes that compile at the same time could load each other's code."""
    assert run(copy) == "miss"
    simd = copy / "graphsched" / "backends" / "cpu" / "language" / "simd.py"
    before = simd.read_text()
    simd.write_text(before + "\n# an edit\n")
    assert run(copy) == "miss"
    simd.write_text(before)
    assert run(copy) == "hit"
    versions = list((copy / "cache" / "kernels").iterdir())
    assert len(versions) == 2
    assert {len(list(v.rglob("*.nbi"))) for v in versions} == {1}


def test_old_versions_are_forgotten(copy: Path) -> None:
    folder = copy / "cache" / "kernels"
    for name, age in (("old", 31), ("young", 29)):
        (folder / name).mkdir(parents=True)
        written = time.time() - age * 24 * 3600
        os.utime(folder / name, (written, written))
    assert run(copy) == "miss"
    assert not (folder / "old").exists()
    assert (folder / "young").exists()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user whose cache folder cannot be made, and the folder for temporary files."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRAPHSCHED_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env._private.cache_clear()
    yield tmp_path
    env._private.cache_clear()


@pytest.mark.skipif(os.name == "nt", reason="rights are those of POSIX")
def test_without_a_folder_to_write_to_kernels_are_kept_among_temporary_files(nowhere: Path) -> None:
    folder = env.cache_dir()
    assert folder == nowhere / f"graphsched-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.name == "nt", reason="rights are those of POSIX")
def test_code_is_not_loaded_from_a_folder_that_others_may_write_to(nowhere: Path) -> None:
    taken = nowhere / f"graphsched-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    assert env.cache_dir() not in (taken, nowhere)
    assert env.cache_dir().parent == nowhere
