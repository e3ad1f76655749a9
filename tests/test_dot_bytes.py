"""The dot product of bytes for other CPUs: cross-compiled and read as assembly; nothing of it runs here."""

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.dot_bytes import dot_raw

ARM, X86 = "aarch64-linux-gnu", "x86_64-linux-gnu"
CALLS = {"bl", "call", "callq"}


def assembly(triple: str, features: str, u7: bool) -> list[str]:
    """The instructions of 64 codes times 64 activations, for a CPU with these features."""
    module = ir.Module()
    module.triple = triple
    words, codes = ir.VectorType(ir.IntType(32), 16), ir.VectorType(ir.IntType(8), 64)
    signature = ir.FunctionType(ir.VoidType(), [words.as_pointer()] + 2 * [codes.as_pointer()])
    function = ir.Function(module, signature, "f")
    builder = ir.IRBuilder(function.append_basic_block())
    acc, u, s = (builder.load(a) for a in function.args)
    builder.store(dot_raw(builder, acc, u, s, u7=u7), function.args[0])
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        found = llvm.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this llvmlite has no code generator for {triple}")
    listed = ",".join(f"+{f}" for f in features.split())
    machine = found.create_target_machine(features=listed, opt=3)
    text = machine.emit_assembly(llvm.parse_assembly(str(module))).replace("{vex}", "")
    return [words[0] for words in map(str.split, text.splitlines()) if words]


@pytest.mark.parametrize(
    ("triple", "features", "u7", "expected"),
    [
        (ARM, "neon dotprod i8mm", False, {"usdot": 4}),
        (ARM, "neon dotprod", False, {"sdot": 12}),
        (X86, "avx512f avx512bw avx512vl avx512vnni avx2", False, {"vpdpbusd": 1}),
        (X86, "avx2 avxvnni", False, {"vpdpbusd": 2}),
        (X86, "avx512f avx512bw avx512vl avx2", True, {"vpmaddubsw": 1, "vpmaddwd": 1}),
        (X86, "avx2", True, {"vpmaddubsw": 2, "vpmaddwd": 2}),
        (X86, "avx2", False, {"vpmaddubsw": 4, "vpmaddwd": 4}),
    ],
)
def test_instructions(
    monkeypatch: pytest.MonkeyPatch, triple: str, features: str, u7: bool, expected: dict[str, int]
) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset(features.split()))
    names = assembly(triple, features, u7)
    assert {name: names.count(name) for name in expected} == expected
    assert not CALLS & set(names)


def test_without_them_plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset({"neon"}))
    assert "sdot" not in assembly(ARM, "neon", False)
