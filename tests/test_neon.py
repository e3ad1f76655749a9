"""The dot product of bytes for NEON: cross-compiled and read as assembly; nothing of it runs here."""

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from graphsched.backends.cpu import target
from graphsched.backends.cpu.simd_int import dot_raw


def assembly(features: str) -> str:
    """64 codes times 64 activations, for an AArch64 CPU with these features."""
    module = ir.Module()
    module.triple = "aarch64-linux-gnu"
    words, codes = ir.VectorType(ir.IntType(32), 16), ir.VectorType(ir.IntType(8), 64)
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [words.as_pointer()] + 2 * [codes.as_pointer()]), "f"
    )
    builder = ir.IRBuilder(function.append_basic_block())
    acc, u, s = (builder.load(a) for a in function.args)
    builder.store(dot_raw(builder, acc, u, s), function.args[0])
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        found = llvm.Target.from_triple(module.triple)
    except RuntimeError:
        pytest.skip("this llvmlite has no AArch64 code generator")
    listed = ",".join(f"+{f}" for f in features.split())
    machine = found.create_target_machine(cpu="generic", features=listed, opt=3)
    return str(machine.emit_assembly(llvm.parse_assembly(str(module))))


@pytest.mark.parametrize(
    ("features", "instruction", "count"), [("neon dotprod i8mm", "usdot", 4), ("neon dotprod", "sdot", 12)]
)
def test_dot_products_are_instructions(
    monkeypatch: pytest.MonkeyPatch, features: str, instruction: str, count: int
) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset(features.split()))
    lines = [line.split() for line in assembly(features).splitlines()]
    names = [line[0] for line in lines if line]
    assert names.count(instruction) == count
    assert not {"bl", "smull", "umull", "smull2"} & set(names)


def test_without_them_plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset({"neon"}))
    assert "sdot" not in assembly("neon")
