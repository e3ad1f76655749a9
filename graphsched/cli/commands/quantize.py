"""`graphsched quantize`: a model file with fewer bits per weight."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli.commands.arguments import Command
from graphsched.cli.commands.screen import Screen
from graphsched.cli.commands.values import Number

if TYPE_CHECKING:
    from graphsched.quantize.choose import Choice, QuantizeOptions

_MIB = 1 << 20


@click.command(cls=Command, epilog="Example: graphsched quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M")
@click.argument("model", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("type")
@click.argument("nthreads", required=False, type=Number(int, 1))
@click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="importance matrix (.dat or GGUF)"
)
@click.option("--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
@click.option(
    "--output-tensor-type", metavar="TYPE", help="type of output.weight, or of a tied token_embd.weight"
)
@click.option(
    "--custom-q",
    "--tensor-type",
    "custom_q",
    multiple=True,
    metavar="REGEX=TYPE,...",
    help="type of the tensors that a pattern finds; the first pattern counts",
)
@click.option("--pure", is_flag=True, help="one type for all matrices, no mix")
@click.option("--allow-requantize", is_flag=True, help="also from types that are quantised already")
@click.option("--leave-output-tensor", is_flag=True, help="leave output.weight as it is")
@click.option("--i2s-arm", is_flag=True, help="I2_S in IN has the layout of ARM: 64 weights in 16 bytes")
@click.option("--dry-run", is_flag=True, help="show types and size, write nothing")
@click.option("-v", "--verbose", is_flag=True, help="say what happens to each tensor")
def command(
    model: Path, out: Path, type: str, nthreads: int | None, imatrix: Path | None, **values: Any
) -> None:
    """Quantise the GGUF file IN to OUT, NTHREADS threads working on it.

    TYPE is F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M,
    Q5_K_S, Q5_K_M, Q6_K, IQ4_NL, IQ4_XS, MXFP4, MXFP4_MOE, TQ1_0, TQ2_0, IQ1_BN, IQ2_BN, IQ2_BN_R4, I2_S, or COPY
    to take all tensors over. Norms, biases and routers stay as they are. Rows that the blocks of a type do not
    divide get one with smaller blocks: Q2_K, Q3_K and TQ become Q4_0, IQ4_XS IQ4_NL, Q4_K Q5_0, Q5_K Q5_1, Q6_K
    Q8_0; where that does not fit either, F16.
    """
    from graphsched.gguf.loader import open_model
    from graphsched.quantize.choose import choose
    from graphsched.quantize.model import write
    from graphsched.session.options import usable_cores

    options = _options(type, imatrix, values)
    screen = Screen(verbose=values["verbose"])
    with open_model(model) as file:
        choices = choose(file, options)

        def begin(i: int, choice: "Choice") -> None:
            screen.detail(f"[{i + 1:4}/{len(choices):4}] {_line(choice)}")

        def progress(done: int, total: int) -> None:
            screen.progress("quantising, million weights", done // 10**6, total // 10**6)

        try:
            if values["dry_run"]:
                print("\n".join(map(_line, choices)))
            else:
                threads = nthreads or usable_cores()
                write(file, out, choices, options, threads=threads, begin=begin, progress=progress)
        finally:
            screen.clear()
        screen.say(_summary(choices))


def _options(type: str, imatrix: Path | None, values: dict[str, Any]) -> "QuantizeOptions":
    from graphsched.quantize import choose
    from graphsched.quantize.imatrix import read_importance

    def named(flag: str) -> Any:
        text = values[flag.removeprefix("--").replace("-", "_")]
        return None if text is None else choose.parse_type(flag, text)

    return choose.QuantizeOptions(
        mix=choose.parse_mix(type),
        token_embedding=named("--token-embedding-type"),
        output_tensor=named("--output-tensor-type"),
        custom=choose.parse_custom("--custom-q", values["custom_q"]),
        is_pure=values["pure"],
        allow_requantize=values["allow_requantize"],
        leave_output=values["leave_output_tensor"],
        is_arm=values["i2s_arm"],
        importance=None if imatrix is None else read_importance(imatrix),
    )


def _line(choice: "Choice") -> str:
    """One tensor as llama-quantize lists it, its shape innermost first."""
    from graphsched.gguf.format import shown

    info = choice.source
    dims = ", ".join(f"{d:5}" for d in info.shape[::-1])
    line = f"{shown(info.name):36} - [{dims}], type = {info.dtype.name.lower():>6}, "
    size = f"size = {info.nbytes / _MIB:8.3f} MiB"
    if choice.is_copied:
        return line + size
    new = choice.dtype.tensor_bytes(info.shape)
    why = "" if choice.dtype is choice.wanted else f" (rows of {info.shape[-1]} do not fit {choice.wanted})"
    return f"{line}converting to {choice.dtype.name.lower()}{why}, {size} -> {new / _MIB:8.3f} MiB"


def _summary(choices: "tuple[Choice, ...]") -> str:
    """Size before and after, bits per weight, and how many tensors did not get the type they should."""
    import math

    weights = sum(math.prod(c.source.shape) for c in choices)
    old, new = (
        sum(c.source.nbytes for c in choices),
        sum(c.dtype.tensor_bytes(c.source.shape) for c in choices),
    )
    lines = [
        f"model size  = {old / _MIB:9.2f} MiB ({8 * old / weights:.2f} BPW)",
        f"quant size  = {new / _MIB:9.2f} MiB ({8 * new / weights:.2f} BPW)",
    ]
    if fallbacks := sum(c.dtype is not c.wanted for c in choices):
        lines.append(
            f"{fallbacks} of {len(choices)} tensors have rows that do not fit their type and got another one"
        )
    return "\n".join(lines)
