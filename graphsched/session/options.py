"""Options of a session: one set, whatever command or call they come from. Imports nothing slow, `--help` reads them."""

import os
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from graphsched.errors import LoadError, OptionError
from graphsched.option import Options, Parsed, declarations, is_not, names, one_of, option, switch, texts
from graphsched.run.affinity import Pins, listed, mask, parse_mask, parse_range, pins
from graphsched.run.limits import memory_limit, usable_cores
from graphsched.schedule.options import PlacementOptions
from graphsched.session.switches import SWITCHES, field, read_off, switched
from graphsched.types.devices import gpu_number

if TYPE_CHECKING:
    from graphsched.gguf.override import Override
    from graphsched.machine.changes import Change
    from graphsched.schedule.policy import Policy
    from graphsched.types.dtypes import DType
    from graphsched.types.goal import Goal

MAX_THREADS: Final = 1024
KV_TYPES: Final = one_of("TYPE", "f32", "f16", "bf16", "q8_0", "q4_0", "q5_1", "iq4_nl", "q8_KV")


def _devices(given: Any) -> tuple[str, ...]:
    """Names of devices and machines, of several in one text each."""
    return tuple(part.strip() for name in names(given) for part in _parts(name))


def _parts(name: str) -> list[str]:
    is_list = "/" in name and all(gpu_number(part) is not None for part in name.split("/"))
    if is_list:  # as llama-bench has them
        return name.split("/")
    is_file = name.endswith(".toml") and Path(name).is_file()  # whose name may have a comma
    return [name] if is_file else name.split(",")


def _file(given: Any) -> str:
    """The path of a description, which is read where it is used."""
    if not isinstance(given, str) or (given and not given.endswith(".toml")):
        raise is_not(given, "the path of a .toml file")
    return given


def _changes(given: Any) -> "tuple[Change, ...]":
    from graphsched.machine.changes import parse_changes

    return parse_changes(given)


def _goal(given: Any) -> "Goal":
    from graphsched.types.goal import read_goal

    return read_goal(given)


def _shown_changes(given: "tuple[Change, ...]") -> str:
    from graphsched.machine.changes import typed

    return typed(given)


def _policy(given: Any) -> "frozenset[int] | Policy":
    """What -op means, once the ops of other packages are declared; or a policy."""
    from graphsched.arch import registry
    from graphsched.schedule.policy import read_policy

    if texts(given):
        with suppress(LoadError):  # an op that is then unknown is named in the error
            registry.import_installed()
    return read_policy(given)


def _shown(given: "frozenset[int] | Policy | None") -> str:
    from graphsched.schedule.policy import shown

    return shown(given)


def _reduction(given: Any) -> tuple[int, float] | None:
    """How many experts each token has at least, and the share of the best score that others need."""
    if given is None or given == "off":
        return None
    with suppress(ValueError, TypeError):
        least, share = given.split(",") if isinstance(given, str) else given
        if int(least) >= 1 and 0 <= float(share) <= 1:
            return int(least), float(share)
    raise is_not(given, "a number of experts from 1 up and a share from 0 to 1, as in 6,0.5,")


def _shown_reduction(given: tuple[int, float] | None) -> str:
    return "off" if given is None else f"{given[0]},{given[1]:g}"


def _metadata(given: Any) -> "tuple[Override, ...]":
    from graphsched.gguf.override import parse_overrides

    return parse_overrides(given, flag="")


def _typed(given: "tuple[Override, ...]") -> str:
    from graphsched.gguf.override import typed

    return typed(given)


def _rule(given: Any) -> "Policy | None":
    from graphsched.schedule.policy import read_rule

    return read_rule(given)


@dataclass(frozen=True, kw_only=True)
class SessionOptions(Options):
    """How to run a model. Takes texts as a command line has them, or values; holds values.

    off: names of switches. devices: names or descriptions, in order of priority. offload_policy: ops by number that may
    not upload, or a policy. poison: fill memory with NaN before each run, so that a missing copy shows. streams:
    simulated devices run streams of their own, each in a thread, as real ones do; slower, for checks.
    mla: how latent attention (DeepSeek) is computed: 0 caches keys and values of every head; 1 caches latents as keys
    and once more as values, and attends to them; 2 and 3 cache latents once, expand them for prompts, attend to them
    for single tokens. amb: MiB that such expanded keys and values may take at once (of one head at least).
    rtr: off, on, or auto for weights that are never offloaded, if the copy fits into half the memory.
    OptionError outside the valid ranges.
    """

    n_ctx: int = option(
        "-c --ctx-size",
        -1,
        low=-1,
        high=1 << 24,
        needed=f"an integer from 1 to {1 << 24}, or 0 for the training context",
        help="tokens of context, 0 for as many as in training",
        shown="as many, at most 4096",
    )
    n_batch: int = option(
        "-b --batch-size", 2048, low=1, high=1 << 20, help="tokens of a prompt handed over at once"
    )
    n_ubatch: int = option("-ub --ubatch-size", 512, low=1, high=1 << 20, help="tokens computed at once")
    n_parallel: int = option(
        "-np --parallel",
        1,
        low=1,
        high=1024,
        also={-1: 1},
        help="sequences at once, which share the context",
    )
    n_checkpoints: int = option(
        "-ctxcp --ctx-checkpoints",
        8,
        low=0,
        high=1 << 16,
        help="copies of a recurrent state that a sequence keeps to go back to",
    )
    checkpoint_every: int = option(
        "-cpent --checkpoint-every",
        512,
        low=0,
        high=1 << 24,
        also={-1: 0},
        help="tokens between them, 0 for none",
    )
    n_threads: int = option(
        "-t --threads",
        0,
        low=0,
        high=MAX_THREADS,
        also={-1: 0},
        help="threads",
        shown="the cores that we may use",
    )
    cpu_mask: Annotated[Any, frozenset[int]] = option(
        "-C --cpu-mask",
        "",
        values=Parsed("MASK", parse_mask, mask),
        help="CPUs of the threads, hexadecimal",
        shown="any",
    )
    cpu_range: Annotated[Any, frozenset[int]] = option(
        "-Cr --cpu-range",
        "",
        values=Parsed("LO-HI", parse_range, listed),
        help="CPUs of the threads",
        shown="any",
    )
    cpu_strict: bool = option("--cpu-strict", False, help="a CPU for each thread")
    type_k: str = option(
        "-ctk --cache-type-k", "f16", values=KV_TYPES, help=f"cached keys: {KV_TYPES.needed}"
    )
    type_v: str = option(
        "-ctv --cache-type-v", "f16", values=KV_TYPES, help=f"cached values: {KV_TYPES.needed}"
    )
    backend: str = option(
        "--backend",
        "cpu",
        values=one_of("NAME", "cpu", "reference"),
        help="cpu, or reference, which is slow numpy",
    )
    devices: Annotated[Any, tuple[str, ...]] = option(
        "-dev --device",
        (),
        values=Parsed("DEVICE", _devices, ",".join),
        help="CUDA0,..., none, or a simulated sim:NAME or .toml file, whose devices are CUDA0, ..., too",
        shown="all GPUs",
        many="all",
    )
    machine: str = option(
        "--machine",
        "",
        values=Parsed("FILE", _file, str),
        help="a described machine for predictions of what runs on the CPU alone",
        shown="as measured, if it was",
    )
    what_if: Annotated[Any, "tuple[Change, ...]"] = option(
        "--what-if",
        (),
        values=Parsed("NAME=VALUE,...", _changes, _shown_changes),
        help="predict another machine: link=2x,sync=0,vram=+8GB",
        shown="",
    )
    fit: bool = option(
        "-fit --fit", False, help="place the model anew, to be fast in the memory that there is"
    )
    fit_target: int = option(
        "-fitt --fit-target", 1024, low=0, high=1 << 24, help="MiB of each device that --fit leaves free"
    )
    fit_for: Annotated[Any, "Goal"] = option(
        "--for",
        "chat",
        values=Parsed("GOAL", _goal, str),
        help="what --fit is for: chat, prompt or pp=512,tg=256,slots=1",
    )
    offload_policy: Annotated[Any, "frozenset[int] | Policy"] = option(
        "-op --offload-policy",
        (),
        values=Parsed("OP,0|1", _policy, _shown),
        help="ops that may (1) or may not (0) upload weights",
        shown="",
        many="last",
    )
    offload_min_batch: int = option(
        "--offload-min-batch", 32, low=1, high=1 << 30, help="rows from which they do"
    )
    offload_rule: Annotated[Any, "Policy | None"] = option(
        "-op-rule --offload-rule",
        None,
        values=Parsed("NAME", _rule, _shown),
        help="another package's rule instead of that",
        shown="",
    )
    mla: int = option("-mla --mla-use", 3, low=0, high=3, help="latent attention, 0 to 3")
    amb: int = option("-amb --attention-max-batch", 256, low=1, high=1 << 20, help="MiB for its temporaries")
    ser: Annotated[Any, tuple[int, float] | None] = option(
        "-ser --smart-expert-reduction",
        None,
        values=Parsed("N,F", _reduction, _shown_reduction),
        help="tokens need N experts, and others only with F of the best one's score",
        shown="off",
    )
    override_kv: Annotated[Any, "tuple[Override, ...]"] = option(
        "--override-kv",
        (),
        values=Parsed("KEY=TYPE:VALUE", _metadata, _typed),
        help="metadata instead of the file's; repeatable",
        shown="",
        many="last",
    )
    swa_full: bool = option("--swa-full", False, help="layers that see a window keep the whole context, too")
    mmap: bool = option(
        "-mmp --mmap", True, off="--no-mmap", help="map the file; 0 reads weights into memory"
    )
    deterministic: bool = option(
        "--deterministic",
        False,
        help="the same bits for a token whatever is computed beside it, by kernels for many tokens; slower",
    )
    trace: bool = option("--tracing", True, off="--no-trace", help="keep the times of the last runs")
    rtr: str = option(
        "-rtr --run-time-repack",
        "off",
        values=switch("auto", no="off", yes="on"),
        help="interleave rows of host weights at load; auto: of those never offloaded",
        shown="0",
    )
    off: Annotated[Any, frozenset[str]] = frozenset()
    placement: PlacementOptions = PlacementOptions()
    poison: bool = False
    streams: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "off", read_off(self.off))
        if not isinstance(self.placement, PlacementOptions):
            raise OptionError(f"is {self.placement!r}, PlacementOptions are needed", "placement")

    @property
    def kv_types(self) -> "tuple[DType, DType]":
        """Types of cached keys and values; the reference backend keeps float32 whatever is asked for."""
        from graphsched.types import dtypes

        chosen = dtypes.by_name(self.type_k), dtypes.by_name(self.type_v)
        return (dtypes.F32, dtypes.F32) if self.backend == "reference" else chosen

    @property
    def policy(self) -> "Policy":
        """What decides on uploads: the policy that was given, or the rule, held back by -op."""
        from graphsched.schedule.policy import MinBatch, OffloadPolicy

        if not isinstance(self.offload_policy, frozenset):
            policy: Policy = self.offload_policy
            return policy
        return OffloadPolicy(self.offload_policy, self.offload_rule or MinBatch(self.offload_min_batch))

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self.n_threads or min(usable_cores(), len(self._cpus) or MAX_THREADS)

    @property
    def pins(self) -> Pins:
        """The CPUs of each thread; () where the system chooses."""
        return pins(self._cpus, self.cpu_strict, self.threads)

    @property
    def _cpus(self) -> frozenset[int]:
        return self.cpu_mask | self.cpu_range


KEYWORDS: Final = frozenset(
    (*(f.name for f in fields(SessionOptions)), *declarations(PlacementOptions), *map(field, SWITCHES))
)


def session_options(**given: Any) -> SessionOptions:
    """Options from one flat set of keywords: those of a session, of placement (n_gpu_layers=8), switches (fmoe=False).

    OptionError for a value outside its range, and for a keyword that is none of them.
    """
    if unknown := next((name for name in given if name not in KEYWORDS), None):
        close = get_close_matches(unknown, KEYWORDS, 1)
        raise OptionError(
            f"there is no option {unknown!r}" + (f"; did you mean {close[0]}?" if close else "")
        )
    switches = {name: given.pop(name) for name in map(field, SWITCHES) if name in given}
    placed = {name: given.pop(name) for name in declarations(PlacementOptions) if name in given}
    options = SessionOptions(**given)
    placement, off = replace(options.placement, **placed), switched(options.off, switches)
    return replace(options, placement=placement, off=off)


def physical_memory() -> int:
    """Bytes of memory in this machine, or that a container leaves; more than any where the system does not tell."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        there = 1 << 62
    return int(min(there, memory_limit()))
