"""The dot product of bytes: for other CPUs read as assembly; here with codes as large as they get."""

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from op_runs import run_raw

from graphsched.backends.cpu.formats.rows import BLOCK_TYPES
from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.dot_bytes import adds_pairs, dot_raw, pair_fours
from graphsched.graph import ops
from graphsched.graph.tensor import TensorType, f32, input_tensor, weight
from graphsched.types.dtypes import DType

NO_QUANTISER = ("IQ1_S", "IQ1_M", "IQ2_X", "IQ2_S", "IQ3_", "NVFP4", "Q6_0")
ARM, X86 = "aarch64-linux-gnu", "x86_64-linux-gnu"
CALLS = {"bl", "call", "callq"}


def assembly(triple: str, features: str, u7: bool, sum_bits: int = 32) -> list[str]:
    """The instructions of 64 codes times 64 activations, for a CPU with these features."""
    module = ir.Module()
    module.triple = triple
    words, codes = ir.VectorType(ir.IntType(sum_bits), 512 // sum_bits), ir.VectorType(ir.IntType(8), 64)
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


@pytest.mark.parametrize(
    ("features", "registers"), [("avx2", 2), ("avx512f avx512bw avx512vl avx2", 1), ("avx2 avxvnni", 0)]
)
def test_sums_of_pairs(monkeypatch: pytest.MonkeyPatch, features: str, registers: int) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset(features.split()))
    assert adds_pairs() == (registers > 0)
    if registers:
        names = assembly(X86, features, u7=True, sum_bits=16)
        assert [names.count(n) for n in ("vpmaddubsw", "vpaddw", "vpmaddwd")] == [registers, registers, 0]


@pytest.mark.parametrize(("most", "fours"), [(2, 64), (15, 8), (16, 8), (31, 4), (64, 2), (86, 0), (255, 0)])
def test_pairs_end_before_16_bits_are_full(monkeypatch: pytest.MonkeyPatch, most: int, fours: int) -> None:
    monkeypatch.setattr(target, "features", lambda: frozenset({"avx2"}))
    assert pair_fours(most) == fours
    assert fours * 2 * most * 127 < 1 << 15


@pytest.mark.target
@pytest.mark.parametrize("n_tokens", [1, 4, 8])
@pytest.mark.parametrize("type", [t for t in BLOCK_TYPES if not t.name.startswith(NO_QUANTISER)], ids=str)
def test_sums_of_the_largest_codes(type: DType, n_tokens: int) -> None:
    """All weights of a block are its largest or its smallest, all activations 1, which is 127 in 8 bits."""
    k, rng = 512, np.random.default_rng(0)
    w = np.where(np.arange(16)[:, None] % 2, 7.0, -8.0) * np.ones((16, k))
    w[:, ::32] *= -1.0  # so that one sign does not become all of a block's range
    w[8:] *= rng.choice([-1.0, 1.0], (8, k))
    raw = type.quantize(w.astype(np.float32))
    x = np.ones((n_tokens, k), np.float32)
    leaves = weight("w.weight", TensorType(type, w.shape)), input_tensor("x", f32(n_tokens, k))
    values = {"w.weight": raw, "x": x.view(np.uint8).reshape(-1)}
    (y,) = run_raw("cpu", ops.mul_mat(*leaves), leaves, values, threads=1, n_kv=0)
    np.testing.assert_allclose(y, x @ type.dequantize(raw, w.shape).T, rtol=1e-5, atol=1e-4)
