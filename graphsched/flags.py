"""The one set of flags for all commands that run a model, and the options that they become."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.commands.arguments import Number, OneOf, ParamType
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.options import SessionOptions
    from graphsched.sampling import SamplingOptions

Function = Callable[..., Any]


@dataclass(frozen=True)
class Flag:
    """A flag, the option's field that it sets, and how it reads; without a type it is a switch."""

    field: str
    names: str
    type: ParamType | None
    help: str
    multiple: bool = False  # given several times, the option is a tuple

    @property
    def switch(self) -> str:
        """What --no-NAME turns off."""
        return self.field.removeprefix("no_").replace("_", "-")

    def add(self, command: Function) -> Function:
        """A decorator; a value that is not given is None and leaves the choice to the options' own default."""
        given: dict[str, Any] = {"is_flag": True} if self.type is None else {"type": self.type}
        if self.multiple:
            given["multiple"] = True
        return click.option(*self.names.split(), self.field, help=self.help, **given)(command)


class FileName(ParamType):
    """A path; whether there is such a file is for the loader to say."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)


class Word(ParamType):
    """A text that the options check."""

    def __init__(self, name: str) -> None:
        self.name = name


# Ranges, words and defaults are those of SessionOptions and SamplingOptions, which import numpy and are not asked
# before a command runs; a test compares the defaults in these texts with theirs.
MODEL: Final = Flag("model", "-m --model", FileName(), "GGUF file (default: the embedded model)")
SESSION: Final = (
    Flag("n_ctx", "-c --ctx-size", Number(int, 1), "tokens of context (default: the model's, at most 4096)"),
    Flag("n_batch", "-b --batch-size", Number(int), "tokens of a prompt handed over at once (default: 2048)"),
    Flag("n_ubatch", "-ub --ubatch-size", Number(int), "tokens computed at once (default: 512)"),
    Flag("n_threads", "-t --threads", Number(int, 1), "threads (default: the cores that we may use)"),
    Flag("type_k", "-ctk --cache-type-k", Word("TYPE"), "cached keys: f32, f16 or q8_0 (default: f16)"),
    Flag("type_v", "-ctv --cache-type-v", Word("TYPE"), "cached values: f32, f16 or q8_0 (default: f16)"),
    Flag("backend", "--backend", Word("NAME"), "cpu, or reference, which is slow numpy (default: cpu)"),
)
SWITCHES: Final = (
    Flag(
        "no_fa", "-no-fa --no-fa --no-flash-attn", None, "compute scores, softmax and sums of attention apart"
    ),
    Flag("no_fmoe", "-no-fmoe --no-fmoe --no-fused-moe", None, "compute up and gate of experts apart"),
    Flag("no_fused_mul_unary", "--no-fused-mul-unary", None, "compute activation and product apart"),
    Flag("no_fused_rms_norm", "--no-fused-rms-norm", None, "compute normalisation and weight apart"),
    Flag(
        "no_traffic", "--no-traffic", None, "leave weightless expert ops on the device, as the baseline does"
    ),
    Flag("no_hoist", "--no-hoist", None, "keep device work behind the host's part, as the baseline does"),
)
FLASH: Final = Flag(
    "fa", "-fa --flash-attn", OneOf("0", "1", "off", "on"), "attention as one op (default: 1)"
)
SCHEDULING: Final = (
    Flag(
        "devices",
        "--device",
        Word("DEVICE"),
        "CUDA0, ..., none, or a simulated sim:NAME or .toml file; repeatable (default: all GPUs)",
        True,
    ),
    Flag(
        "offload_policy",
        "-op --offload-policy",
        Word("OP,0|1"),
        "ops that may (1) or may not (0) upload weights",
        True,
    ),
    Flag("offload_min_batch", "--offload-min-batch", Number(int, 1), "rows from which they do (default: 32)"),
    Flag("mla", "-mla --mla-use", Number(int, 0), "latent attention, 0 to 3 (default: 3)"),
    Flag(
        "amb",
        "-amb --attention-max-batch",
        Number(int, 1),
        "MiB for its temporaries (default: 256)",
    ),
    Flag("swa_full", "--swa-full", None, "layers that see a window keep the whole context, too"),
)
PLACEMENT: Final = (
    Flag(
        "n_gpu_layers",
        "-ngl --gpu-layers --n-gpu-layers",
        Number(int, -1),
        "last layers on devices (default: -1, all)",
    ),
    Flag(
        "overrides",
        "-ot --override-tensor",
        Word("REGEX=BUFT"),
        "where tensors live; the first match wins",
        True,
    ),
    Flag(
        "n_cpu_moe",
        "-ncmoe --n-cpu-moe",
        Number(int, 0),
        "last layers whose experts stay on the host (default: 0)",
    ),
    Flag("cpu_moe", "-cmoe --cpu-moe", None, "all experts stay on the host"),
    Flag("no_kv_offload", "-nkvo --no-kv-offload", None, "the KV cache stays on the host"),
    Flag("no_mmap", "--no-mmap", None, "read weights into memory instead of mapping the file"),
    Flag("main_gpu", "-mg --main-gpu", Number(int, 0), "the device of -sm none (default: 0)"),
    Flag("split_mode", "-sm --split-mode", Word("MODE"), "layer or none (default: layer)"),
    Flag("tensor_split", "-ts --tensor-split", Word("N,N,..."), "share of each device (default: equal)"),
)
ALL_LAYERS: Final = 999  # -cmoe is -ncmoe with this
SAMPLING: Final = (
    Flag("temperature", "--temp", Number(float), "temperature, 0 takes the likeliest token (default: 0.8)"),
    Flag("top_k", "--top-k", Number(int), "choose among so many likeliest tokens, 0 is off (default: 40)"),
    Flag("top_p", "--top-p", Number(float), "choose among tokens that together have P (default: 0.95)"),
    Flag("min_p", "--min-p", Number(float), "choose among tokens with P of the likeliest's (default: 0.05)"),
    Flag("repeat_penalty", "--repeat-penalty", Number(float), "against repetition, 1 is off (default: 1.0)"),
    Flag("repeat_last_n", "--repeat-last-n", Number(int), "tokens it looks at, -1 for all (default: 64)"),
    Flag("seed", "-s --seed", Number(int, -1), "seed of the choices (default: -1, another each time)"),
)


def session(command: Function) -> Function:
    """Adds the flags of model and session; the command receives `model: Path | None` and `options`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        off = frozenset(f.switch for f in SWITCHES if values.pop(f.field))
        off |= {FLASH.field} if values.pop(FLASH.field) in ("0", "off") else set()
        given = _taken(values, SESSION) | _taken(values, SCHEDULING) | {"off": off}
        return command(options=_session_options(given, _taken(values, PLACEMENT)), **values)

    return _with((MODEL, *SESSION, *SCHEDULING, *PLACEMENT, FLASH, *SWITCHES), with_options)


def sampling(command: Function) -> Function:
    """Adds the flags of sampling; the command receives `sampling: SamplingOptions`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = _taken(values, SAMPLING)
        return command(sampling=_sampling_options(given), **values)

    return _with(SAMPLING, with_options)


def _with(flags: Iterable[Flag], command: Function) -> Function:
    for flag in reversed(tuple(flags)):
        command = flag.add(command)
    return command


def _taken(values: dict[str, Any], flags: Iterable[Flag]) -> dict[str, Any]:
    """What was given for the flags, taken out of the command's values."""
    given = {f.field: values.pop(f.field) for f in flags}
    return {
        field: value
        for field, value in given.items()
        if value is not None and value is not False and value != ()
    }


def _session_options(given: Mapping[str, Any], placed: Mapping[str, Any]) -> "SessionOptions":
    from graphsched.options import SessionOptions
    from graphsched.placement import PlacementOptions, parse_split

    placed = dict(placed)
    if placed.pop("cpu_moe", False):
        placed["n_cpu_moe"] = ALL_LAYERS
    if placed.pop("no_kv_offload", False):
        placed["kv_offload"] = False
    if "tensor_split" in placed:
        placed["tensor_split"] = parse_split(placed["tensor_split"])
    mapped = {"mmap": False} if placed.pop("no_mmap", False) else {}
    placement = _made(PlacementOptions, placed, PLACEMENT)
    return _made(SessionOptions, {**given, **mapped, "placement": placement}, (*SESSION, *SCHEDULING))


def changed(options: "SessionOptions", **fields: Any) -> "SessionOptions":
    """The options with other values in some fields."""
    return _made(type(options), vars(options) | fields, SESSION)


def asks_for_devices(options: "SessionOptions") -> bool:
    """Whether flags are given that need a device to mean anything."""
    p = options.placement
    return p.n_gpu_layers > 0 or bool(p.tensor_split or p.n_cpu_moe or options.offload_policy or p.main_gpu)


def _sampling_options(given: Mapping[str, Any]) -> "SamplingOptions":
    from graphsched.sampling import SamplingOptions

    return _made(SamplingOptions, {k: v for k, v in given.items() if (k, v) != ("seed", -1)}, SAMPLING)


def _made(options: Function, given: Mapping[str, Any], flags: Iterable[Flag]) -> Any:
    """The options; an error calls a field by its flag."""
    try:
        return options(**given)
    except OptionError as e:
        field, is_range, rest = str(e).partition(" is ")
        names = {f.field: f.names.split()[0] for f in flags}
        raise OptionError(f"{names[field]} is {rest}" if is_range and field in names else str(e)) from None


def batch_hint(options: "SessionOptions") -> str | None:
    """A sentence if the batch is no multiple of the micro-batch, which costs speed."""
    batch, ubatch = options.n_batch, options.n_ubatch
    if batch % ubatch == 0:
        return None
    if batch < ubatch:
        return f"-b {batch} is smaller than -ub {ubatch}, so {batch} tokens are computed at once"
    return f"-b {batch} is no multiple of -ub {ubatch}, each full batch ends with {batch % ubatch} tokens"
