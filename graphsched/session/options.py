"""Options of a session: one set, whatever command or call they come from."""

import os
from dataclasses import dataclass
from pathlib import Path

from graphsched.errors import Error, OptionError
from graphsched.run.affinity import Pins, chosen_cpus, pins, usable_cpus
from graphsched.schedule.placement import PlacementOptions
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

KV_TYPES = ("f32", "f16", "q8_0", "q4_0")
# What can be switched off: flash attention, fusions of the graph, and the scheduler's improvements on the baseline.
SWITCHES = (
    "fa",
    "fmoe",
    "fused-add-rms-norm",
    "fused-mul-unary",
    "fused-rms-norm",
    "fused-rope",
    "fused-topk-moe",
    "hoist",
    "merge-qkv",
    "traffic",
)
RTR = ("off", "on", "auto")
MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How to run a model. OptionError outside the valid ranges.

    n_ctx: cells of the KV cache; 0 takes the model's training context, at most 4096. n_batch: tokens of a prompt handed
    over at once; n_ubatch: tokens computed at once. n_threads: 0 takes the cores that affinity and cgroup allow.
    cpu_mask, cpu_range: the CPUs that threads run on, as a hexadecimal mask or lo-hi; cpu_strict: one for each thread.
    type_k, type_v: types of the KV cache. off: switches turned off. devices: as `sim:NAME` or `sim:FILE`, in order of
    priority. offload_policy: each an -op argument; offload_min_batch: tokens from which host weights may be uploaded.
    mmap: weights stay in the mapped file instead of memory of their own.
    rtr: interleave rows of host weights at load, for faster single tokens: off, on, or auto for those that are never
    offloaded, if the copy fits into half the memory.
    poison: fill memory with NaN before each run, so that a missing copy shows. streams: simulated devices run
    streams of their own, each in a thread, as real ones do; slower, for checks. mla: how latent
    attention (DeepSeek) is computed: 0 caches keys and values of every head; 1 caches latents as keys and once more as
    values, and attends to them; 2 and 3 cache latents once, expand them for prompts, attend to them for single tokens.
    trace: keep the times of the last runs in a ring.
    amb: MiB that such expanded keys and values may take at once (of one head at least).
    swa_full: layers that see only a window of the sequence keep as many cells as the others.
    """

    backend: str = "cpu"
    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 0
    cpu_mask: str = ""
    cpu_range: str = ""
    cpu_strict: bool = False
    type_k: str = "f16"
    type_v: str = "f16"
    off: frozenset[str] = frozenset()
    mla: int = 3
    amb: int = 256
    devices: tuple[str, ...] = ()
    placement: PlacementOptions = PlacementOptions()
    offload_policy: tuple[str, ...] = ()
    offload_min_batch: int = 32
    swa_full: bool = False
    poison: bool = False
    streams: bool = False
    mmap: bool = True
    trace: bool = True
    rtr: str = "off"

    def __post_init__(self) -> None:
        _in_range("n_ctx", self.n_ctx, 0, 1 << 24)
        _in_range("n_batch", self.n_batch, 1, 1 << 20)
        _in_range("n_ubatch", self.n_ubatch, 1, 1 << 20)
        _in_range("mla", self.mla, 0, 3)
        if self.rtr not in RTR:
            raise OptionError(f"rtr is {self.rtr}, one of {', '.join(RTR)} is needed")
        _in_range("amb", self.amb, 1, 1 << 20)
        _in_range("n_threads", self.n_threads, 0, MAX_THREADS)
        _in_range("offload_min_batch", self.offload_min_batch, 1, 1 << 30)
        for name in sorted(self.off):
            if name not in SWITCHES:
                raise OptionError(f"no switch {name!r}; there are {', '.join(SWITCHES)}")
        _ = self.kv_types, chosen_cpus(self.cpu_mask, self.cpu_range)

    @property
    def kv_types(self) -> tuple[DType, DType]:
        """Types of cached keys and values; the reference backend keeps float32 whatever is asked for."""
        chosen = _kv_type(self.type_k), _kv_type(self.type_v)
        return (dtypes.F32, dtypes.F32) if self.backend == "reference" else chosen

    @property
    def threads(self) -> int:
        return self.n_threads or min(
            usable_cores(), len(chosen_cpus(self.cpu_mask, self.cpu_range)) or MAX_THREADS
        )

    @property
    def pins(self) -> Pins:
        """The CPUs of each thread; () where the system chooses."""
        return pins(self.cpu_mask, self.cpu_range, self.cpu_strict, self.threads)


def _in_range(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise OptionError(f"{name} is {value}, an integer from {low} to {high} is needed")


def _kv_type(name: str) -> DType:
    try:
        found = dtypes.by_name(name)
    except Error:
        found = None
    if found is None or found.name.lower() not in KV_TYPES:
        raise OptionError(f"no KV cache type {name!r}; there are {', '.join(KV_TYPES)}")
    return found


def usable_cores() -> int:
    """Cores that affinity and the cgroup's quota allow."""
    cores = len(usable_cpus())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or quota "max"
        return cores


def physical_memory() -> int:
    """Bytes of memory in this machine; more than any where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 1 << 62
