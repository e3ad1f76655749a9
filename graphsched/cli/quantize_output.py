"""Output of `graphsched quantize`: tensors, sizes, and arguments without effect."""

from typing import TYPE_CHECKING, Final

from graphsched.cli.screen import Screen

if TYPE_CHECKING:
    from graphsched.gguf.given import Given
    from graphsched.gguf.loader import ModelFile
    from graphsched.quantize.choose import Choice, QuantizeOptions

_MIB: Final = 1 << 20


def line(choice: "Choice") -> str:
    """One tensor as llama-quantize lists it, its shape innermost first."""
    from graphsched.gguf.format import shown

    info = choice.source
    dims = ", ".join(f"{d:5}" for d in info.shape[::-1])
    text = f"{shown(info.name):36} - [{dims}], type = {info.dtype.name.lower():>6}, "
    size = f"size = {info.nbytes / _MIB:8.3f} MiB"
    if choice.is_copied:
        return text + size
    new = choice.dtype.tensor_bytes(info.shape)
    why = "" if choice.dtype is choice.wanted else f" (rows of {info.shape[-1]} do not fit {choice.wanted})"
    return f"{text}converting to {choice.dtype.name.lower()}{why}, {size} -> {new / _MIB:8.3f} MiB"


def summary(choices: "tuple[Choice, ...]") -> str:
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


def say_what_is_unused(
    file: "ModelFile",
    choices: "tuple[Choice, ...]",
    options: "QuantizeOptions",
    given: "tuple[Given, ...]",
    screen: Screen,
) -> None:
    """One line for what was given and has no effect, one for each gap of the importance matrix."""
    from graphsched.gguf.given import Given, unused
    from graphsched.quantize.choose import rules_used
    from graphsched.quantize.imatrix import coverage

    given = (*given, *rules_used(file, options))
    if options.importance is not None:
        quantised = [c for c in choices if not c.is_copied and c.dtype.block > 1]
        searched = {c.source.name: c.source.shape for c in quantised}
        given = (*given, Given(f"--imatrix {options.importance.file}", len(searched)))
        for note in coverage(options.importance, searched, file.tensors):
            screen.say(note)
    if sentence := unused(given):
        screen.say(sentence)
