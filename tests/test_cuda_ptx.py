"""What NVRTC makes of the CUDA kernels, assembly of the wrappers included, runs on the CPU; no GPU and no driver."""

from typing import Any

import numpy as np
import pytest
from cuda_emu import ptx
from cuda_emu.cases import cases
from cuda_emu.values import Case, error
from cuda_emu.wrapped import wrappers
from needs import needs_gxx, needs_nvrtc

from graphsched.backends.cuda.launch import compiler

pytestmark = needs_gxx

# one case of each kind by default: after the first of a kernel file, which is compiled twice, they take milliseconds
USUAL = (
    "quantize-3x1088", "rms_norm_q8", "add_rms_norm", "rope-128-128-neox-131000", "softmax", "copy-f32-bf16",
    "decode-q4_k-5x512", "decode-q6_k-3x1280", "set_rows-q4_0",
)  # fmt: skip


def chosen() -> list[Any]:
    usual = {c.name for c in wrappers()} | set(USUAL)
    return [pytest.param(c, marks=() if c.name in usual else pytest.mark.slow, id=c.name) for c in cases()]


@pytest.fixture(scope="module")
def target() -> ptx.PtxTarget:
    return ptx.PtxTarget(seed=3)


@needs_nvrtc
@pytest.mark.parametrize("case", chosen())
def test_case(target: ptx.PtxTarget, case: Case) -> None:
    got, want, tolerance = case.run(target, np.random.default_rng(7))
    assert error(got, want) <= tolerance


MUTANTS = {  # of the wrappers' assembly
    'bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo)': 'bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(lo), "f"(hi)',
    '"prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b)': '"prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(b), "r"(a)',
    '"r"(b0), "r"(b1));  ': '"r"(b1), "r"(b0));  ',
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
    '"r"(valid ? 16 : 0)': '"r"(16)',
    "cp.async.wait_group %0": "cp.async.commit_group; //",
    '"=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)': '"=r"(v.y), "=r"(v.x), "=r"(v.z), "=r"(v.w)',
}


@needs_nvrtc
@pytest.mark.parametrize(("right", "wrong"), MUTANTS.items(), ids=range(len(MUTANTS)))
def test_wrong_assembly_shows(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    whole = compiler.assemble.__wrapped__("wrappers")
    assert right in whole
    monkeypatch.setattr("cuda_emu.emulator.assemble", lambda *_: whole.replace(right, wrong))
    broken = ptx.PtxTarget()
    found = []
    for case in wrappers():
        try:
            got, want, tolerance = case.run(broken, np.random.default_rng(7))
            found.append(error(got, want) > tolerance)
        except Exception:
            found.append(True)
    assert any(found)


def test_what_has_no_rule_is_an_error() -> None:
    text = ".visible .entry f(\n.param .u64 f_param_0\n)\n{\n.reg .b32 %r<2>;\nwgmma.fence.sync.aligned;\nret;\n}\n"
    with pytest.raises(ptx.UnknownInstruction, match="wgmma"):
        ptx.translated(text)
