"""`graphsched quantize`: a model file with fewer bits per weight."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.quantize_options import arguments, options_of, renamed, type_flags
from graphsched.cli.quantize_output import line, say_what_is_unused, summary
from graphsched.cli.screen import Screen

if TYPE_CHECKING:
    from graphsched.quantize.choose import Choice


@click.command(cls=Command, epilog="Example: graphsched quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M")
@click.argument("model", metavar="IN", type=click.Path(path_type=Path))
@click.argument("rest", metavar="[OUT] TYPE [NTHREADS]", nargs=-1)
@click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="importance matrix (.dat or GGUF)"
)
@click.option(
    "--include-weights", multiple=True, metavar="TEXT", help="use it only for tensors with TEXT in the name"
)
@click.option("--exclude-weights", multiple=True, metavar="TEXT", help="do not use it for these")
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
@click.option(
    "--tensor-type-file", metavar="FILE", help="file of such rules, parted by white space or commas"
)
@type_flags
@click.option("--pure", is_flag=True, help="one type for all matrices, no mix")
@click.option("--allow-requantize", is_flag=True, help="also from types that are quantised already")
@click.option("--leave-output-tensor", is_flag=True, help="leave output.weight as it is")
@click.option("--i2s-arm", is_flag=True, help="I2_S in IN has the layout of ARM: 64 weights in 16 bytes")
@click.option("--keep-split", is_flag=True, help="as many parts as IN has, OUT-00001-of-0000N.gguf and so on")
@click.option(
    "--prune-layers", "pruned", metavar="N,...", help="leave these layers out; those behind them move up"
)
@flags.overriding
@click.option("--dry-run", is_flag=True, help="show types and size, write nothing")
@click.option("-v", "--verbose", is_flag=True, help="say what happens to each tensor")
def command(model: Path, rest: tuple[str, ...], imatrix: Path | None, **values: Any) -> None:
    """Quantise the GGUF file IN to OUT (ggml-model-TYPE.gguf beside IN), NTHREADS threads working on it.

    TYPE is F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M,
    Q5_K_S, Q5_K_M, Q6_K, IQ4_NL, IQ4_XS, MXFP4, MXFP4_MOE, TQ1_0, TQ2_0, IQ1_BN, IQ2_BN, IQ2_BN_R4, I2_S, or COPY
    to take all tensors over. Norms, biases and routers stay as they are. Rows that the blocks of a type do not
    divide get one with smaller blocks: Q2_K, Q3_K and TQ become Q4_0, IQ4_XS IQ4_NL, Q4_K Q5_0, Q5_K Q5_1, Q6_K
    Q8_0; where that does not fit either, F16.
    """
    from graphsched.quantize.choose import choose
    from graphsched.quantize.model import write
    from graphsched.quantize.prune import open_pruned, parse_layers
    from graphsched.run.limits import usable_cores

    # OUT may be left out as in llama-quantize, so positions alone do not say which argument is which.
    out, type, threads = arguments(model, rest)
    options, given = options_of(type, imatrix, values)
    screen = Screen(verbose=values["verbose"])
    layers = parse_layers(values["pruned"]) if values["pruned"] is not None else ()
    opened, names = open_pruned(model, layers, values["override_kv"])
    options = renamed(options, names)
    with opened as file:
        choices = choose(file, options)
        say_what_is_unused(file, choices, options, given, screen)

        def begin(i: int, choice: "Choice") -> None:
            screen.detail(f"[{i + 1:4}/{len(choices):4}] {line(choice)}")

        def progress(done: int, total: int) -> None:
            screen.progress("quantising, million weights", done // 10**6, total // 10**6)

        try:
            if values["dry_run"]:
                print("\n".join(map(line, choices)))
            else:
                threads = threads or usable_cores()
                split = values["keep_split"]
                write(
                    file,
                    out,
                    choices,
                    options,
                    threads=threads,
                    keep_split=split,
                    begin=begin,
                    progress=progress,
                )
        finally:  # an error is printed on a line of its own, not behind the progress
            screen.clear()
        screen.say(summary(choices))
