"""The one set of flags for all commands that run a model, and the options that they become."""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from graphsched.cli.commands.values import MOST, FileName, Number, Switch, SwitchOrAuto, Word
from graphsched.cli.flag import Flag, Function
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.session.options import SessionOptions
    from graphsched.text.sampling import SamplingOptions

# Ranges, words and defaults are those of SessionOptions and SamplingOptions, which import numpy and are not asked
# before a command runs; a test compares the defaults in these texts with theirs.
MODEL: Final = Flag("model", "-m --model", FileName(), "GGUF file (default: the embedded model)")
SESSION: Final = (
    Flag("n_ctx", "-c --ctx-size", Number(int, 1), "tokens of context (default: the model's, at most 4096)"),
    Flag("n_batch", "-b --batch-size", Number(int), "tokens of a prompt handed over at once (default: 2048)"),
    Flag("n_ubatch", "-ub --ubatch-size", Number(int), "tokens computed at once (default: 512)"),
    Flag("n_threads", "-t --threads", Number(int, 1), "threads (default: the cores that we may use)"),
    Flag("cpu_mask", "-C --cpu-mask", Word("MASK"), "CPUs of the threads, hexadecimal (default: any)"),
    Flag("cpu_range", "-Cr --cpu-range", Word("LO-HI"), "CPUs of the threads (default: any)"),
    Flag("cpu_strict", "--cpu-strict", Switch(), "a CPU for each thread (default: 0)"),
    Flag("type_k", "-ctk --cache-type-k", Word("TYPE"), "cached keys: f32, f16, q8_0 or q4_0 (default: f16)"),
    Flag(
        "type_v", "-ctv --cache-type-v", Word("TYPE"), "cached values: f32, f16, q8_0 or q4_0 (default: f16)"
    ),
    Flag("backend", "--backend", Word("NAME"), "cpu, or reference, which is slow numpy (default: cpu)"),
)
SWITCHES: Final = (
    Flag(
        "fa",
        "-fa --flash-attn",
        Switch(auto=True),
        "attention as one op, not scores, softmax and sums apart (default: 1)",
        off="-no-fa --no-fa --no-flash-attn",
    ),
    Flag(
        "fmoe",
        "-fmoe --fmoe --fused-moe",
        Switch(),
        "compute up and gate of experts in one op (default: 1)",
        off="-no-fmoe --no-fmoe --no-fused-moe",
    ),
    Flag(
        "fused_mul_unary",
        "--fused-mul-unary",
        Switch(),
        "compute activation and product in one op (default: 1)",
        off="--no-fused-mul-unary",
    ),
    Flag(
        "fused_rms_norm",
        "--fused-rms-norm",
        Switch(),
        "compute normalisation and weight in one op (default: 1)",
        off="--no-fused-rms-norm",
    ),
    Flag(
        "fused_add_rms_norm",
        "--fused-add-rms-norm",
        Switch(),
        "compute a sum and its normalisation in one op (default: 1)",
        off="--no-fused-add-rms-norm",
    ),
    Flag(
        "fused_rope",
        "--fused-rope",
        Switch(),
        "rotate queries and keys in one op (default: 1)",
        off="--no-fused-rope",
    ),
    Flag(
        "merge_qkv",
        "-mqkv --merge-qkv",
        Switch(),
        "compute queries, keys and values of a token in one op (default: 1)",
        off="-no-mqkv --no-merge-qkv",
    ),
    Flag(
        "fused_topk_moe",
        "--fused-topk-moe",
        Switch(),
        "choose experts in one op (default: 1)",
        off="--no-fused-topk-moe",
    ),
    Flag(
        "traffic",
        "--traffic",
        Switch(),
        "weightless expert ops run where that saves copies; 0 is the baseline (default: 1)",
        off="--no-traffic",
    ),
    Flag(
        "hoist",
        "--hoist",
        Switch(),
        "device work goes before the host's part; 0 is the baseline (default: 1)",
        off="--no-hoist",
    ),
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
    Flag(
        "swa_full",
        "--swa-full",
        Switch(),
        "layers that see a window keep the whole context, too (default: 0)",
    ),
    Flag(
        "mmap",
        "-mmp --mmap",
        Switch(),
        "map the file; 0 reads weights into memory (default: 1)",
        off="--no-mmap",
    ),
    Flag(
        "trace",
        "--tracing",
        Switch(),
        "keep the times of the last runs (default: 1)",
        off="--no-trace",
    ),
    Flag(
        "rtr",
        "-rtr --run-time-repack",
        SwitchOrAuto(),
        "interleave rows of host weights at load; auto: of those never offloaded (default: 0)",
    ),
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
    Flag("cpu_moe", "-cmoe --cpu-moe", Switch(), "all experts stay on the host (default: 0)"),
    Flag("no_kv_offload", "-nkvo --no-kv-offload", Switch(), "the KV cache stays on the host (default: 0)"),
    Flag("main_gpu", "-mg --main-gpu", Number(int, 0), "the device of -sm none (default: 0)"),
    Flag("split_mode", "-sm --split-mode", Word("MODE"), "layer or none (default: layer)"),
    Flag("tensor_split", "-ts --tensor-split", Word("N/N/..."), "share of each device (default: equal)"),
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


MODEL_AND_SESSION: Final = (MODEL, *SESSION, *SCHEDULING, *PLACEMENT, *SWITCHES)


def session(command: Function) -> Function:
    """Adds the flags of model and session; the command receives `model: Path | None` and `options`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = {f.field: values.pop(f.field) for f in MODEL_AND_SESSION}
        model, options = _chosen(given)
        return command(model=model, options=options, **values)

    return _with(MODEL_AND_SESSION, with_options)


def grid(command: Function) -> Function:
    """Adds the same flags, each with lists; the command receives `grid`: (model, options) of every combination.

    Combinations are in the order of the flags, the model changing last. OptionError if they are too many.
    """

    @functools.wraps(command)
    def with_grid(**values: Any) -> Any:
        lists = {f.field: f.alternatives(values.pop(f.field)) for f in MODEL_AND_SESSION}
        if (count := math.prod(map(len, lists.values()))) > MOST:
            raise OptionError(f"the lists make {count} combinations, {MOST} are possible")
        chosen = (_chosen(dict(zip(lists, each, strict=True))) for each in itertools.product(*lists.values()))
        return command(grid=tuple(dict.fromkeys(chosen)), **values)

    return _with(MODEL_AND_SESSION, with_grid, lists=True)


def further(given: Mapping[str, Any], behind: Mapping[str, Any]) -> "SessionOptions":
    """The options of flags as a command reads them and of further ones behind them, which count where both are given.

    Further overrides are asked first, further policies last: both win. Other devices take the place of the first.
    """
    values = {f.field: _later(f, given[f.field], behind[f.field]) for f in MODEL_AND_SESSION}
    return _chosen(values)[1]


def _later(flag: Flag, first: Any, second: Any) -> Any:
    if flag.field == "overrides":
        return second + first
    if flag.field == "offload_policy":
        return first + second
    return first if second is None or second == () else second


def _chosen(given: dict[str, Any]) -> "tuple[Path | None, SessionOptions]":
    """The model and the options that the flags' values make."""
    off = frozenset(f.switch for f in SWITCHES if given[f.field] is False)
    options = _taken(given, SESSION) | _taken(given, SCHEDULING) | {"off": off}
    return given["model"], _session_options(options, _taken(given, PLACEMENT))


def sampling(command: Function) -> Function:
    """Adds the flags of sampling; the command receives `sampling: SamplingOptions`."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = _taken(values, SAMPLING)
        return command(sampling=_sampling_options(given), **values)

    return _with(SAMPLING, with_options)


def _with(flags: Iterable[Flag], command: Function, *, lists: bool = False) -> Function:
    for flag in reversed(tuple(flags)):
        command = flag.add(command, lists=lists)
    return command


def _taken(values: dict[str, Any], flags: Iterable[Flag]) -> dict[str, Any]:
    """What was given for the flags, taken out of the command's values."""
    given = {f.field: values.pop(f.field) for f in flags}
    return {field: value for field, value in given.items() if value is not None and value != ()}


def _session_options(given: Mapping[str, Any], placed: Mapping[str, Any]) -> "SessionOptions":
    from graphsched.schedule.placement import PlacementOptions, parse_split
    from graphsched.session.options import SessionOptions

    placed = dict(placed)
    if placed.pop("cpu_moe", False):
        placed["n_cpu_moe"] = ALL_LAYERS
    if "no_kv_offload" in placed:
        placed["kv_offload"] = not placed.pop("no_kv_offload")
    if "tensor_split" in placed:
        placed["tensor_split"] = parse_split(placed["tensor_split"])
    placement = _made(PlacementOptions, placed, PLACEMENT)
    return _made(SessionOptions, {**given, "placement": placement}, (*SESSION, *SCHEDULING))


def changed(options: "SessionOptions", **fields: Any) -> "SessionOptions":
    """The options with other values in some fields."""
    return _made(type(options), vars(options) | fields, SESSION)


def asks_for_devices(options: "SessionOptions") -> bool:
    """Whether flags are given that need a device to mean anything."""
    p = options.placement
    return p.n_gpu_layers > 0 or bool(p.tensor_split or p.n_cpu_moe or options.offload_policy or p.main_gpu)


def _sampling_options(given: Mapping[str, Any]) -> "SamplingOptions":
    from graphsched.text.sampling import SamplingOptions

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
