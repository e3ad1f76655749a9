"""The CUDA kernels without a GPU: every case on the emulator, all through NVRTC; why no GPU is used."""

import ctypes
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_emu import unpack
from cuda_emu.cases import cases
from cuda_emu.emulator import CHECKED, EmulatedTarget, Emulator
from cuda_emu.repacked import repack
from cuda_emu.values import FILES, Case, error, file_bytes
from needs import needs_gxx, needs_nvdisasm, needs_nvrtc
from nvdisasm import disassembled
from sass import Kernel, gemm_row, kernels, matvec_row

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver import nvrtc
from graphsched.backends.cuda.driver.signature import KernelError, Signature, parse
from graphsched.backends.cuda.families import gemm
from graphsched.backends.cuda.launch import compiler as cubins
from graphsched.backends.cuda.launch.layout import CODED, LAYOUTS
from graphsched.errors import ShapeError
from graphsched.types.extents import CELL_BLOCK

CASES = cases()


# ---- numerics


@cache
def emulated(seed: int, checked: bool) -> EmulatedTarget:
    return EmulatedTarget(seed, CHECKED * checked)


def check(case: Case, seed: int, checked: bool = False, target: EmulatedTarget | None = None) -> None:
    got, want, tolerance = case.run(target or emulated(seed % 16, checked), np.random.default_rng(seed))
    assert error(got, want) <= tolerance


@needs_gxx
@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=[c.name for c in CASES])
def test_case(case: Case, seed: int) -> None:
    check(case, seed)  # the seed also decides in which order blocks and threads run


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)), ids=[c.name for c in CASES])
def test_case_without_undefined_behaviour(case: Case, seed: int) -> None:
    check(case, seed + 3, checked=True)


@pytest.mark.parametrize("kind", [k for k in LAYOUTS if not LAYOUTS[k].header])
def test_layout_against_gguf(kind: str, rng: np.random.Generator) -> None:
    gguf = pytest.importorskip("gguf")
    rows, k = 3, 512
    raw = file_bytes(kind, rows, k, rng)
    name = kind.upper()
    want = gguf.quants.dequantize(raw.reshape(rows, -1), gguf.GGMLQuantizationType[name])
    got = unpack.weights(kind, repack(kind, raw, rows, k), rows, k)
    assert np.allclose(
        got, want, rtol=1e-6 if kind in CODED else 0, atol=0
    )  # scale and value multiplied in another order


@pytest.mark.parametrize("kind", ["iq1_bn", "iq2_bn"])
def test_bitnet_layouts(kind: str, rng: np.random.Generator) -> None:
    rows, k = 3, 192
    q, scale = rng.integers(0, 3, (rows, k // 64, 64)), np.array([0.5, 1.25, 3.0], np.float32)
    if kind == "iq2_bn":  # byte j: weights j, j + 16, j + 32, j + 48
        blocks = (q.reshape(rows, -1, 4, 16) << np.array([0, 2, 4, 6])[:, None]).sum(2)
    else:  # five trits a byte, the sixteenth weight of each group in byte 12
        g = q.reshape(rows, -1, 4, 16)
        packed = (g[..., :15].reshape(rows, -1, 12, 5) * 3 ** np.arange(5)).sum(-1)
        extra = (g[..., 15] * 3 ** np.arange(4)).sum(-1, keepdims=True)
        blocks = (np.concatenate([packed, extra], axis=-1) * 256 + 242) // 243
    header = scale.astype("<f4" if kind == "iq2_bn" else "<f2").view(np.uint8).reshape(rows, -1)
    raw = np.concatenate([header, blocks.astype(np.uint8).reshape(rows, -1)], axis=1).reshape(-1)
    want = (q.reshape(rows, k) - 1) * scale[:, None]
    assert np.array_equal(unpack.weights(kind, repack(kind, raw, rows, k), rows, k), want)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


# ---- compiling

REPORT = re.compile(
    r"Function properties for (\w+)\n\D*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill"
)


FEW: dict[str, tuple[str, ...]] = {  # types
    "matmul": ("q4_0", "q2_k"), "moe": ("q4_k",), "copy": ("q3_k",), "gemm_q8": ("q5_k", "q6_k"),
    "attention": ("f16_f16_128_128_8", "f16_f16_576_512_1", "q80_q40_64_64_4"), "floats": ("bf16",),
}  # fmt: skip


@cache
def report(source: str, arch: str) -> str:
    """Registers, shared and local memory, spills of each kernel, as the assembler says them."""
    return driver.compile_cubin(source, cubins.options(arch))[1]


def uses_local_memory(stem: str, log: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = REPORT.findall(log)
    assert found, log
    return [f for f in found if f[1:] != ("0", "0", "0")]


@needs_nvrtc
@pytest.mark.ci
@pytest.mark.parametrize("stem", FILES)
def test_compiles_without_local_memory(stem: str) -> None:
    log = report(cubins.assemble(stem, FILES[stem]), "sm_90")
    assert {name for name, *_ in REPORT.findall(log)} == set(parse(cubins.assemble(stem, FILES[stem])))
    assert uses_local_memory(stem, log) == []


@needs_nvrtc
@pytest.mark.ci
@pytest.mark.parametrize("arch", ["sm_80", "sm_120"])
@pytest.mark.parametrize("stem", FILES)
def test_compiles_for(arch: str, stem: str) -> None:
    log = report(cubins.assemble(stem, FEW.get(stem, FILES[stem])), arch)
    assert uses_local_memory(stem, log) == []


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_120"])
@pytest.mark.parametrize("stem", FEW)
def test_every_type_compiles_for(arch: str, stem: str) -> None:
    assert uses_local_memory(stem, report(cubins.assemble(stem, FILES[stem]), arch)) == []


@needs_nvrtc
def test_cubins_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSCHED_CACHE_DIR", str(tmp_path))
    first = cubins.build(cubins.assemble("norm"), "sm_90")
    monkeypatch.setattr(driver, "compile_cubin", lambda *_: pytest.fail("compiled again"))
    again = cubins.build(cubins.assemble("norm"), "sm_90")
    assert (again, first.cubin[:4]) == (first, b"\x7fELF")


@needs_nvrtc
def test_compile_errors_show_the_compilers_words() -> None:
    with pytest.raises(KernelError, match=r"NVRTC_ERROR_COMPILATION[\s\S]*nonsense"):
        driver.compile_cubin('extern "C" __global__ void k() { nonsense; }', ("--gpu-architecture=sm_90",))


SASS = {  # what the kernels are written for
    ("matmul", "matvec_1_q4_0"): (r"LDG\.E\.NA\S*\.128", r"IDP\.4A"),
    ("gemm", "gemm_bf16_128_128"): (r"LDGSTS\S*\.128", "LDSM", r"HMMA\.16816\.F32\.BF16"),
    ("gemm_q8", "gemm_q8_q8_0"): ("LDSM", r"IMMA\.16832\.S8\.S8", r"LDGSTS\S*\.128"),
    ("gemm_q8", "gemm_q8_q4_k"): (r"IMMA\.16832\.S8\.S8", r"HMMA\.1688\.F32\.TF32"),
    ("attention", "attention_f16_f16_128_128_8"): (r"LDG\.E\S*\.128",),
    ("matmul", "matvec_fused_q4_0"): (r"LDG\.E\.NA\S*\.128", r"IDP\.4A"),
    ("moe", "up_gate_q4_0"): (r"LDG\.E\.NA\S*\.128", r"IDP\.4A"),
    ("quantize", "rms_norm_q8"): (r"LDG\.E\S*\.128",),
    ("w2a8", "quantize_token"): (r"LDG\.E\S*\.128",),
    ("prompt", "halves_q40"): (r"STG\.E\S*\.128",),
    ("attention", "attention_q40_q40_128_128_8"): (r"LDG\.E\.U16",),
    ("decode", "decode_q4_k"): (r"LDG\.E\.NA\S*\.128", r"STS\.128", r"LDS\.128", r"STG\.E\S*\.128"),
    ("w2a8", "w2a8_1"): (r"LDG\.E\.NA\S*\.128", r"IDP\.4A"),
    ("w2a8", "w2a8_16"): (r"LDG\.E\.NA\S*\.128", r"IMMA\.16832\.S8\.S8"),
    ("w2a8", "w2a8_prompt"): (r"LDG\.E\.NA\S*\.128", r"LDGSTS\S*\.128", r"LDS\.128", r"IMMA\.16832\.S8\.S8"),
}


SASS_TYPES = {
    "matmul": ("q4_0",),
    "moe": ("q4_0",),
    "decode": ("q4_k",),
    "gemm_q8": ("q8_0", "q4_k"),
    "attention": ("f16_f16_128_128_8", "q40_q40_128_128_8"),
}


@cache
def sass(stem: str, types: tuple[str, ...], arch: str = "sm_90") -> dict[str, str]:
    """The instructions of each kernel."""
    return disassembled(cubins.build(cubins.assemble(stem, types), arch).cubin)


@needs_nvrtc
@needs_nvdisasm
@pytest.mark.ci
@pytest.mark.parametrize(("stem", "kernel"), SASS)
def test_instructions(stem: str, kernel: str) -> None:
    body = sass(stem, SASS_TYPES.get(stem, ()))[kernel]
    assert [i for i in SASS[stem, kernel] if not re.search(i, body)] == []


SLOTS = {
    "q8_0": 12.5,
    "q4_0": 13,
    "q4_k": 15.5,
    "q6_k": 20,
    "q2_k": 17.5,
}  # instructions a product, a little above what there is


@needs_nvrtc
@needs_nvdisasm
@pytest.mark.ci
def test_the_quantised_gemm_is_few_instructions() -> None:
    found = {k.name: k for k in kernels("gemm_q8", tuple(SLOTS), "sm_90") if "_id_" not in k.name}
    slots = {t: float(gemm_row(found[f"gemm_q8_{t}"])[3]) for t in SLOTS}
    assert {t: n for t, n in slots.items() if n > SLOTS[t]} == {}


@needs_nvrtc
@needs_nvdisasm
@pytest.mark.ci
def test_mat_vecs_have_the_bytes_under_way_that_memory_takes() -> None:
    """25 KiB a multiprocessor is an H200's bandwidth times 700 ns; 14.5 bytes a clock its share of an H100's."""
    types = ("q4_0", "q8_0", "q4_k", "q6_k", "iq4_nl", "mxfp4")
    rows = [matvec_row(k) for k in kernels("matmul", types, "sm_90") if k.name.startswith("matvec_1_")]
    assert len(rows) == len(types)
    assert [r[0] for r in rows if float(r[4]) < 25 or float(r[6]) < 14.5] == []


def test_machine_code_is_counted_by_loops() -> None:
    code = [
        ("MOV", "R1, 0"),
        ("LDG.E.NA.128.CONSTANT", "R4, desc[UR4][R2.64]"),
        ("LDG.E.U16.CONSTANT", "R8, desc[UR4][R2.64]"),
        ("IDP.4A.S8.S8", "R1, R4, R9, R1"),
        ("LOP3.LUT", "R2, R2, 1, RZ, 0xc0, !PT"),
        ("BRA", "`(.L_x_1)"),
        ("EXIT", ""),
    ]
    k = Kernel("matvec_1_q4_0", code, {"L_x_1": 1}, 68, 0, 128)
    assert k.loop == range(1, 6)
    assert k.by_unit() == {"memory": 2, "dot": 1, "integer": 1, "control": 1}
    assert (k.loads(), k.bytes_of_round(), k.resident()) == ((18, 18), 18, 28)


@needs_nvrtc
@needs_nvdisasm
@pytest.mark.ci
@pytest.mark.parametrize("stem", FILES)
def test_nothing_but_weights_is_touched_before_the_wait(stem: str) -> None:
    """Where kernels overlap: else the one after the next could run too early, or read what is not written yet."""
    for name, body in sass(stem, FILES[stem][:2]).items():
        assert "ACQBULK" in body, name
        assert "PREEXIT" in body, name  # so that the next one may begin
        before = body.split("ACQBULK")[0]
        assert not re.search(r"\b(STG|ST\.E|RED|ATOM)", before), name
        reads = re.findall(r"\bLDG\S*", before)
        assert [r for r in reads if ".CONSTANT" not in r] == [], name
    older = sass(stem, FILES[stem][:2], "sm_80") if stem in ("norm", "w2a8") else {}
    assert not any("ACQBULK" in body for body in older.values())


def test_every_kernel_waits_for_its_predecessor() -> None:
    for stem, types in FILES.items():
        source = cubins.assemble(stem, types[:1])
        for name in parse(source):
            assert _reaches(source, name, "gs_pdl_wait"), f"{stem}: {name} never calls gs_pdl_wait()"


def _reaches(source: str, name: str, wanted: str, depth: int = 3) -> bool:
    """Whether the function or macro called `name` calls `wanted`, itself or through what it calls."""
    function = re.search(rf"\b{name}\([^;{{]*\)\s*{{(.*?)\n}}", source, re.DOTALL)
    body = re.search(rf"#define {name}\(\w+\)((?:.*\\\n)*.*)", source) or function
    if body is None or depth == 0:
        return False
    inner = set(re.findall(r"\b((?:gs|GS)_\w+)(?:<[^;()]*>)?\(", body[1]))
    return wanted in inner or any(_reaches(source, n, wanted, depth - 1) for n in inner)


# ---- the launcher

AXPY = parse(
    'extern "C" __global__ void __launch_bounds__(64) axpy(const float* x, float* y, float a, int n) {}'
)["axpy"]


def test_signatures_are_read_from_declarations() -> None:
    want = Signature("axpy", ("float*", "float*", "float", "int"), ("x", "y", "a", "n"))
    assert want == AXPY


def test_arguments_are_packed_by_declared_type() -> None:
    packed = AXPY.pack((4096, None, 2, np.int64(7)))
    assert [type(p) for p in packed] == [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_float, ctypes.c_int]
    assert [p.value for p in packed] == [4096, 0, 2.0, 7]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((1, 2, 3.0), "axpy takes 4 arguments"),
        ((1, 2, 3.0, 4.0), "int n cannot take float"),
        ((1.5, 2, 3.0, 4), "float\\* x cannot take float"),
        ((1, 2, "3", 4), "float a cannot take str"),
        ((1, 2, 3.0, 2**31), "int n cannot hold 2147483648"),
    ],
)
def test_wrong_arguments_are_refused(args: tuple[Any, ...], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        AXPY.pack(args)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gemm.gemm("f16", 0, 0, 0, 8, 8, 12), "k = 12 must be a multiple of 8"),
    ],
)
def test_what_no_kernel_takes_is_an_error(make: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        make()


@pytest.mark.parametrize(
    ("m", "n", "tile"), [(512, 4096, (128, 128)), (512, 14336, (128, 256)), (16, 4096, (64, 64))]
)
def test_gemm_tiles_fill_the_device(m: int, n: int, tile: tuple[int, int]) -> None:
    assert gemm.gemm("bf16", 0, 0, 0, m, n, 4096).kernel == f"gemm_bf16_{tile[0]}_{tile[1]}"


# ---- the emulator finds what it is there to find

PLANTED = {
    "deadlock": ("if (threadIdx.x < 16) gs_sync();\n y[threadIdx.x] = gs_shfl_xor(x[0], 1);", "deadlock"),
    "two barriers": ("if (threadIdx.x < 32) gs_sync();\n else\n gs_sync();", "different barriers"),
    "past the end": ("y[threadIdx.x] = x[threadIdx.x + 1];", "memory that is not the kernel's"),
    "misaligned": ("y[0] = (float)gs_weights16(x + 1).x;", "misaligned load"),
    "two operations": (
        "y[threadIdx.x] = threadIdx.x < 16 ? gs_shfl(x[0], 0) : gs_shfl_xor(x[0], 1);",
        "different warp",
    ),
}


@needs_gxx
@pytest.mark.parametrize("name", PLANTED)
def test_emulator_reports(name: str) -> None:
    body, words = PLANTED[name]
    with pytest.raises(KernelError, match=words):
        planted(body)


@needs_gxx
def test_emulator_shared_memory_starts_as_nan_and_copies_are_late() -> None:
    assert np.isnan(planted("GS_SHARED(float, s, 64); y[threadIdx.x] = s[threadIdx.x];")).all()
    late = "GS_SHARED(float, s, 256); gs_copy16(s + threadIdx.x * 4, x, true); gs_copy_commit();"
    assert np.isnan(planted(f"{late} y[threadIdx.x] = s[threadIdx.x * 4];")).all()
    assert (planted(f"{late} gs_copy_wait<0>(); y[threadIdx.x] = s[threadIdx.x * 4];") == 1).all()


def planted(body: str) -> np.ndarray[Any, Any]:
    """Run a kernel of 64 threads on 64 ones."""
    from cuda_emu.emulator import guarded

    emulator = Emulator("", source=f'extern "C" __global__ void k(const float* x, float* y) {{ {body} }}\n')
    x, y = guarded(np.ones(64, np.float32)), guarded(np.zeros(64, np.float32))
    emulator.launch("k", (1,), 64, (x, y))
    return y


MUTANTS = (  # file, types, what to replace, by what, cases that must fail
    ("norm", (), "gs_sync();\n  return", "return", "rms_norm-"),
    ("gemm", (), "gs_sync();  // slice", "//", "gemm-f16-64x64"),
    ("gemm", (), "gs_copy_wait<STAGES - 2>", "gs_copy_wait<STAGES - 1>", "gemm-f16-64x64"),
    ("gemm", (), "c ^ r % 8", "c ^ r % 4", "gemm-f16-64x64"),
    ("prompt", (), "gs_sync();  // before", "//", "prompt-2q2kv-64"),
    ("prompt", (), "row / at.group < pass.token ||", "", "prompt-4q1kv-128-128-45"),
    ("prompt", (), "first + TILE > mine.begin", "first > mine.begin", "prompt-"),
    ("prompt", (), "pass.begin / TILE * TILE", "pass.begin", "prompt-6q2kv"),
    ("attention", ("f16_f16_64_64_4",), "look_up(base + STEP);", "", "attention-window"),
    ("attention", ("f16_f16_64_64_4",), "p >= begin && p < end", "p < end", "attention-window"),
    ("copy", (), "id >= 0) r.y", "true) r.y", "set_rows"),
    ("recurrent", ("64",), "slot(middle) == s &&", "", "ssm_conv-tokens"),
    ("recurrent", ("64",), "i < before && of.position(t) != 0", "i < before", "ssm_conv"),
    ("recurrent", ("64",), "gs_min(first + before, end) : t", "t : t", "ssm_conv-8"),
    ("moe", ("q4_0",), "slot.expert >= 0", "true", "matvec_id-q4_0"),
    ("matmul", ("q4_0",), "if (s0 + u * stride < steps) raw", "raw", "matvec-q4_0"),
    ("gemm_q8", ("q4_0",), "gs_sync();  // this slice", "//", "gemm_q8-q4_0-"),
    ("gemm_q8", ("q2_k",), "gs_half_sums(s, t);\n      gs_sync();", "gs_half_sums(s, t);", "gemm_q8-q2_k-"),
    (
        "gemm_q8",
        ("q4_0",),
        "gs_copy_wait<0>();\n    weights.store(0, s, other",
        "weights.store(0, s, other",
        "gemm_q8-q4_0-",
    ),
    ("w2a8", (), "gs_sync();\n  if (slice)", "if (slice)", "w2a8-"),
    ("w2a8", (), "gs_sync();  // slice", "//", "w2a8-37x516-130"),
    ("w2a8", (), "gs_copy_wait<GS_SLICES - 2>", "gs_copy_wait<GS_SLICES - 1>", "w2a8-37x516-130"),
    ("w2a8", (), "gs_min(row_tile, last)", "row_tile", "w2a8-"),
)


@needs_gxx
@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m[0]}: {m[2].strip()[:24]}" for m in MUTANTS])
def test_planted_bugs_are_found(mutant: tuple[str, tuple[str, ...], str, str, str]) -> None:
    stem, types, old, new, names = mutant
    source = cubins.assemble(stem, types)
    assert old in source
    library = Emulator(stem, types, source=source.replace(old, new))
    assert any(
        fails(c, library, stem, seed) for seed in (0, 6, 13) for c in CASES if c.name.startswith(names)
    )


def fails(case: Case, library: Emulator, stem: str, seed: int) -> bool:
    bugged = EmulatedTarget(seed)
    bugged.libraries[stem] = library
    try:
        check(case, seed, target=bugged)
    except (AssertionError, KernelError):
        return True
    return False


def test_blocks_of_cells_are_as_large_as_on_the_host() -> None:
    assert f"enum {{ GS_CELL_BLOCK = {CELL_BLOCK} }};" in cubins.assemble("attention")


def test_nothing_imports_cuda_before_it_is_needed() -> None:
    modules = ("driver", "launch.compiler", *(f"families.{m}" for m in ("attention", "copy", "gemm", "moe")))
    imports = "; ".join(f"import graphsched.backends.cuda.{m}" for m in modules)
    code = f"import sys; {imports}; assert not any(m.split('.')[0] in ('cuda', 'gguf') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


@pytest.mark.gpu
@pytest.mark.skipif(driver.probe() is not None, reason=str(driver.probe()))
def test_on_the_gpu_that_is_here(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "tools" / "gpu" / "gpu_check.py"
    command = [sys.executable, str(script), "--no-bench", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


# ---- why no GPU is used


class FakeDriver:
    """What probe() asks of libcuda."""

    def __init__(self, init: int = 0, devices: int = 1, version: int = 13000) -> None:
        self.init, self.devices, self.version = init, devices, version

    def cuInit(self, _: int) -> int:
        return self.init

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = self.devices
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = self.version
        return 0


def missing(name: str) -> Any:
    raise OSError(name)


@pytest.mark.parametrize(
    ("load", "why", "reason"),
    [
        (missing, None, "no NVIDIA driver (libcuda.so.1 was not found)"),
        (lambda _: FakeDriver(init=100), None, "the NVIDIA driver finds no GPU"),
        (lambda _: FakeDriver(devices=0), None, "the NVIDIA driver finds no GPU"),
        (lambda _: FakeDriver(init=803), None, "the NVIDIA driver does not start (cuInit returned 803)"),
        (
            lambda _: FakeDriver(version=12040),
            None,
            "the NVIDIA driver is too old: it knows CUDA 12.4, 13.0 is needed (driver 580)",
        ),
        (lambda _: FakeDriver(), "NVRTC was not found", "NVRTC was not found"),
        (lambda _: FakeDriver(), None, None),
    ],
)
def test_probe_says_why(load: Any, why: str | None, reason: str | None) -> None:
    assert driver.probe(load, lambda: why) == reason


def test_probe_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise RuntimeError("libnvrtc.so.13 not found")

    monkeypatch.setattr(nvrtc, "nvrtc_version", absent)
    reason = driver.probe(lambda _: FakeDriver())
    assert reason == "NVRTC, which compiles the kernels, was not found (pip install 'graphsched[cuda]')"
