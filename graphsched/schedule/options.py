"""Where a model should live: the options of placement. Imports nothing slow, `--help` reads them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from graphsched.errors import OptionError
from graphsched.option import Options, Parsed, one_of, option
from graphsched.schedule.overrides import Override, parse_overrides, typed

_LARGEST_SHARE: Final = 1e6  # shares are summed in float32


def parse_split(given: str | Iterable[float]) -> tuple[float, ...]:
    """Shares as numbers, or as typed: 3,1 or 3/1. OptionError for what cannot be shares."""
    shares = given.replace("/", ",").split(",") if isinstance(given, str) else given
    try:
        return _checked(tuple(map(float, shares)))
    except (TypeError, ValueError):
        raise OptionError(f"is {'empty' if given == '' else given}, numbers such as 3,1 are needed") from None


def _checked(shares: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 <= share <= _LARGEST_SHARE for share in shares):
        raise OptionError(f"is {listed(shares)}, numbers from 0 to 1e+06 are needed")
    if shares and max(shares) < 1 / _LARGEST_SHARE:
        raise OptionError(f"is {listed(shares)}, one share above 0 is needed")
    return shares


def listed(shares: Sequence[float], comma: str = ",") -> str:
    """Shares as they may be typed: 3,1"""
    return comma.join(f"{share:g}" for share in shares)


def _shown_split(shares: Sequence[float]) -> str:
    return listed(shares, "/")


@dataclass(frozen=True, kw_only=True)
class PlacementOptions(Options):
    """Where a model should live. Takes texts as a command line has them, or values; holds values.

    n_gpu_layers counts the output as one more layer. overrides: `-ot` texts or `Override`s. n_cpu_moe: so many layers
    with experts, the last ones of each device, keep these in host memory; n_cpu_moe_first: the first layers of the
    model, with experts or not. tensor_split: devices behind the last share have none.
    OptionError outside the valid ranges.
    """

    n_gpu_layers: int = option(
        "-ngl --gpu-layers --n-gpu-layers",
        -1,
        low=-1,
        also={-2: -1, "all": -1, "auto": -1},
        needed="an integer from 0 up, -1, all or auto",
        help="last layers on devices; -1, all and auto are all",
        shown="all",
    )
    overrides: Annotated[Any, tuple[Override, ...]] = option(
        "-ot --override-tensor",
        (),
        values=Parsed("REGEX=BUFT", parse_overrides, typed),
        help="where tensors live; the first match wins",
        shown="",
        many="first",
    )
    n_cpu_moe: int = option(
        "-ncmoe --n-cpu-moe",
        0,
        low=0,
        help="layers whose experts stay on the host, the last ones as in ik_llama.cpp; llama.cpp's are -ncmoe-first",
    )
    n_cpu_moe_first: int = option(
        "-ncmoe-first --n-cpu-moe-first",
        0,
        low=0,
        help="the same, the first ones as in llama.cpp, where layers without experts count, too",
    )
    cpu_moe: bool = option("-cmoe --cpu-moe", False, help="all experts stay on the host")
    kv_offload: bool = option(
        "", True, off="-nkvo --no-kv-offload", help="the KV cache stays on the host", shown="0"
    )
    main_gpu: int = option("-mg --main-gpu", 0, low=0, help="the device of -sm none")
    split_mode: str = option(
        "-sm --split-mode", "layer", values=one_of("MODE", "layer", "none"), help="layer or none"
    )
    tensor_split: Annotated[Any, tuple[float, ...]] = option(
        "-ts --tensor-split",
        (),
        values=Parsed("N/N/...", parse_split, _shown_split),
        help="share of each device, those left out have none",
        shown="their memory, equal if that is",
    )

    @property
    def layers_flag(self) -> str:
        """The flag that put a layer where it is, as a cause."""
        return f"-ngl {'all' if self.n_gpu_layers < 0 else self.n_gpu_layers}"

    @property
    def experts_flags(self) -> tuple[str, ...]:
        """The flags that keep experts in host memory, as causes."""
        counts = ("-ncmoe-first", self.n_cpu_moe_first), ("-ncmoe", self.n_cpu_moe)
        return (*(["-cmoe"] if self.cpu_moe else []), *(f"{flag} {n}" for flag, n in counts if n))
