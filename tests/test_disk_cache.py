"""What is kept between runs is a convenience: whatever is wrong with it is a miss, and is said once."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import graphsched
from graphsched import disk_cache
from graphsched.disk_cache import DIGEST_BYTES, CacheWarning

MODEL = Path(graphsched.__file__).resolve().parent / "data" / "stories.gguf"
# A small kernel, and the same with Numba's own words for what was found.
RUN = """
import warnings
from graphsched.backends.cpu.movement import get_elements_f32
warnings.showwarning = lambda warning, *where: print(warning)
kernel = get_elements_f32()
kernel.address
print("hit" if kernel.was_cached else "miss")
"""


@pytest.fixture(autouse=True)
def _unsaid() -> Iterator[None]:
    """What was said in an earlier test is said again."""
    disk_cache._complain.cache_clear()
    yield
    disk_cache._complain.cache_clear()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user whose cache folder cannot be made, and the folder for temporary files."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRAPHSCHED_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk_cache._private.cache_clear()
    yield tmp_path
    disk_cache._private.cache_clear()


posix = pytest.mark.skipif(os.name == "nt", reason="rights are those of POSIX")


@posix
def test_without_a_folder_to_write_to_kernels_are_kept_among_temporary_files(nowhere: Path) -> None:
    with pytest.warns(CacheWarning, match=r"file/cache cannot be written to, .* GRAPHSCHED_CACHE_DIR"):
        folder = disk_cache.folder()
    assert folder == nowhere / f"graphsched-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0


@posix
@pytest.mark.filterwarnings("ignore::graphsched.disk_cache.CacheWarning")
def test_code_is_not_loaded_from_a_folder_that_others_may_write_to(nowhere: Path) -> None:
    taken = nowhere / f"graphsched-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    assert disk_cache.folder() not in (taken, nowhere)
    assert disk_cache.folder().parent == nowhere


@posix
def test_a_user_without_a_home(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GRAPHSCHED_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(CacheWarning, match="there is no home folder, compiled kernels are kept in"):
        assert disk_cache.folder().parent == nowhere


@posix
def test_where_nothing_can_be_written(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*name: Any, **options: Any) -> Path:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nothing)
    monkeypatch.setattr(tempfile, "mkdtemp", nothing)
    path = disk_cache.folder() / "data"
    with pytest.warns(
        CacheWarning, match=r"cannot be written to \(not a directory\), .* lost when this run ends"
    ):
        disk_cache.write(path, b"")
    assert disk_cache.read(path) is None


def test_data_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "data"
    assert disk_cache.read(path) is None
    disk_cache.write(path, b"kept")
    assert disk_cache.read(path) == b"kept"
    assert [f.name for f in path.parent.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: b"",
        lambda kept: kept[:10],
        lambda kept: kept[:-1],
        lambda kept: kept + b"\0",
        lambda kept: bytes(DIGEST_BYTES) + kept[DIGEST_BYTES:],
        lambda kept: b"something else that stands there",
    ],
    ids=["empty", "no digest", "cut", "longer", "other digest", "foreign"],
)
def test_what_is_not_whole_is_a_miss(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    disk_cache.write(path, b"kept")
    path.write_bytes(damage(path.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it heals itself, so nothing is said
        assert disk_cache.read(path) is None
        disk_cache.write(path, b"anew")
    assert disk_cache.read(path) == b"anew"


def test_what_cannot_be_read_or_written_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()  # stands for all that the system refuses, whoever asks
    with pytest.warns(CacheWarning, match=r"data cannot be read \(is a directory\)"):
        assert disk_cache.read(path) is None
    with pytest.warns(CacheWarning, match=r"cannot be written to \(is a directory\)"):
        disk_cache.write(path, b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert disk_cache.read(path) is None
        disk_cache.write(path, b"")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield

    monkeypatch.setattr(disk_cache, "replacing", full)
    with pytest.warns(CacheWarning, match=r"\(no space left on device\), compiled kernels are lost"):
        disk_cache.write(tmp_path / "data", b"kept")
    assert not list(tmp_path.iterdir())


def run(folder: Path) -> list[str]:
    env = {**os.environ, "GRAPHSCHED_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_damaged_kernels_are_compiled_again(tmp_path: Path) -> None:
    assert run(tmp_path) == ["miss"]
    (kept,) = tmp_path.rglob("*.kernel")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert run(tmp_path) == ["miss"]
    assert hashlib.sha256(kept.read_bytes()[DIGEST_BYTES:]).digest() == kept.read_bytes()[:DIGEST_BYTES]
    assert run(tmp_path) == ["hit"]


@pytest.mark.parametrize(
    "words", [["plan"], ["devices"], ["inspect", str(MODEL)], ["ops"], ["tokenize", "-p", "a"]]
)
def test_commands_that_compile_nothing_do_not_touch_it(words: list[str], tmp_path: Path) -> None:
    env = {**os.environ, "GRAPHSCHED_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "graphsched", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cache").exists()
