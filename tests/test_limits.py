"""Quotas of containers: made-up trees of control groups, as the kernel shows them in both versions."""

import math
from pathlib import Path

import pytest

from graphsched.run import limits
from graphsched.run.limits import core_quota, memory_limit, usable_cores
from graphsched.session import options

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "35 34 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "36 34 0:31 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
)
OWN = "4:cpu,cpuacct:/docker/abc/sub\n9:memory:/docker/abc/sub\n1:name=systemd:/x\n"


def made(root: Path, cgroup: str, mounts: str, **files: str) -> Path:
    """A root with what /proc says and with files below /sys/fs/cgroup, `__` standing for a folder."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        ("0::/\n", {"cpu.max": "50000 100000", "memory.max": "1048576"}, 0.5, 1 << 20),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, math.inf, math.inf),
        ("0::/\n", {}, math.inf, math.inf),
        # the root of a machine has no such files, groups below it have
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/b/memory.max": "4096"}, 3, 4096),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2, math.inf),
        (
            "0::/a/b\n",
            {"a/b/memory.max": "9000", "a/memory.max": "max", "memory.max": "8000"},
            math.inf,
            8000,
        ),
        ("0::/a\n", {"b/cpu.max": "50000 100000"}, math.inf, math.inf),  # somebody else's
        # a group outside of what the container sees
        ("0::/../other\n", {"cpu.max": "250000 100000"}, 2.5, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf, math.inf),
        ("0::/\n", {"cpu.max": "50000"}, math.inf, math.inf),
        ("0::/\n", {"cpu.max": "50000 0", "memory.max": ""}, math.inf, math.inf),
        ("nonsense\n\n", {"cpu.max": "50000 100000"}, math.inf, math.inf),
    ],
)
def test_version_2(tmp_path: Path, cgroup: str, files: dict[str, str], cores: float, memory: float) -> None:
    root = made(tmp_path, cgroup, V2, **files)
    assert (core_quota(root), memory_limit(root)) == (cores, memory)


@pytest.mark.parametrize("top", ["/", "/docker/abc", "/other"])
def test_version_1(tmp_path: Path, top: str) -> None:
    """The tree may be mounted whole, from the container's group down, or under a name that the process does not see."""
    below = {"/": "docker/abc/", "/docker/abc": "", "/other": ""}[top]
    files = {
        f"cpu,cpuacct/{below}cpu.cfs_quota_us": "50000",
        f"cpu,cpuacct/{below}cpu.cfs_period_us": "100000",
        f"memory/{below}memory.limit_in_bytes": "1000000",
    }
    if top != "/other":
        files |= {
            f"cpu,cpuacct/{below}sub/cpu.cfs_quota_us": "-1",
            f"cpu,cpuacct/{below}sub/cpu.cfs_period_us": "100000",
            f"memory/{below}sub/memory.limit_in_bytes": "9223372036854771712",
        }
    root = made(tmp_path, OWN, V1.format(top=top), **files)
    assert (core_quota(root), memory_limit(root)) == (0.5, 1_000_000)


def test_both_versions_at_once(tmp_path: Path) -> None:
    """Version 2 without controllers beside version 1, as systemd's hybrid layout has it."""
    unified = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    files = {
        "unified/docker/cpu.max": "max 100000",
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "150000",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
    }
    cgroup = "4:cpu,cpuacct:/docker\n0::/docker\n"
    root = made(tmp_path, cgroup, unified + V1.format(top="/"), **files)
    assert (core_quota(root), memory_limit(root)) == (1.5, math.inf)


def test_folders_with_spaces(tmp_path: Path) -> None:
    mounts = r"30 23 0:26 / /sys/fs/cgroup/a\040b rw - cgroup2 cgroup2 rw"
    root = made(tmp_path, "0::/\n", mounts, **{"a b/cpu.max": "50000 100000"})
    assert core_quota(root) == 0.5


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert (core_quota(tmp_path), memory_limit(tmp_path)) == (math.inf, math.inf)


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 1), (3.0, 3), (64.0, 4), (math.inf, 4)])
def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr(limits, "usable_cpus", lambda: frozenset(range(4)))
    monkeypatch.setattr(limits, "core_quota", lambda: quota)
    assert usable_cores() == cores
    assert options.SessionOptions().threads == cores
    assert options.SessionOptions(n_threads=8).threads == 8


def test_memory_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = options.physical_memory()
    monkeypatch.setattr(options, "memory_limit", lambda: math.inf)
    assert options.physical_memory() >= everything > 0
    monkeypatch.setattr(options, "memory_limit", lambda: 1000.0)
    assert options.physical_memory() == 1000
