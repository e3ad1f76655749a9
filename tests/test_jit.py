"""The kernel cache: an edited intrinsic recompiles, nothing else does."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

import graphsched
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.signature import KernelError, parse
from graphsched.backends.cpu.language.vector import as_they_are
from graphsched.graph.tensor import TensorType
from graphsched.run.operand import Buffer, Operand, Out, dense
from graphsched.types import dtypes

PACKAGE = Path(graphsched.__file__).resolve().parent
CHECKOUT = str(PACKAGE.parent)
RUN = """
import numpy as np
from graphsched.backends.cpu.movement import get_elements_f32
kernel = get_elements_f32()
kernel.address
print("hit" if kernel.was_cached else "miss")
"""
PACK = """
from graphsched.types import dtypes
from graphsched.backends.cuda.packing.pieces import packing
from graphsched.graph.tensor import TensorType
kernel = packing(TensorType(dtypes.by_name("Q4_0"), (2, 32))).kernel
kernel.address
print("hit" if kernel.was_cached else "miss")
"""

TOGETHER = """
from graphsched.backends.cpu.language import compilation
from graphsched.backends.cpu.matmul.gates import mul_unary_f32
kernels, heard = [mul_unary_f32(kind) for kind in range(8)], []
assert not any(kernel.is_there for kernel in kernels)
compilation.compile_all(kernels, lambda done, total: heard.append((done, total)), "graphsched.backends.cpu.device")
assert all(kernel.is_there for kernel in kernels)
assert heard[0] == (0, 8) and heard[-1] == (8, 8) and heard == sorted(heard)
print("shared" if any(kernel.was_cached for kernel in kernels) else "alone")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package whose sources a test may edit."""
    root = tmp_path / "checkout"
    shutil.copytree(
        PACKAGE, root / "graphsched", symlinks=False, ignore=shutil.ignore_patterns("__pycache__", "data")
    )
    if not (root / "graphsched" / "backends").exists():  # an installed mapping without symlinks
        for name in ("backends", "models"):
            module = __import__(f"graphsched.{name}", fromlist=["_"])
            shutil.copytree(Path(str(module.__file__)).parent, root / "graphsched" / name)
    return root


def run(root: Path, code: str = RUN, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(root), "GRAPHSCHED_CACHE_DIR": str(root / "cache"), **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # else each run parses the copied sources again
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_edited_intrinsic_recompiles_the_kernels(copy: Path) -> None:
    assert run(copy) == "miss"
    assert run(copy) == "hit"
    simd = copy / "graphsched" / "backends" / "cpu" / "language" / "simd.py"
    simd.write_text(simd.read_text() + "\n# an edit\n")
    assert run(copy) == "miss"
    assert run(copy) == "hit"


def test_kernels_that_pack_have_sources_of_their_own(copy: Path) -> None:
    """An edit there compiles them again, and none of the CPU's; an edit of what both are made of compiles both."""
    assert run(copy, RUN + PACK) == "miss\nmiss"
    assert run(copy, RUN + PACK) == "hit\nhit"
    backends = copy / "graphsched" / "backends"
    blocks, simd = backends / "cuda" / "packing" / "blocks.py", backends / "cpu" / "language" / "simd.py"
    blocks.write_text(blocks.read_text() + "\n# an edit\n")
    assert run(copy, RUN + PACK) == "hit\nmiss"
    simd.write_text(simd.read_text() + "\n# an edit\n")
    assert run(copy, RUN + PACK) == "miss\nmiss"


@pytest.mark.parametrize(("jobs", "expected"), [("2", "shared"), ("1", "alone")])
def test_kernels_are_compiled_by_several_processes(tmp_path: Path, jobs: str, expected: str) -> None:
    assert run(tmp_path, TOGETHER, PYTHONPATH=CHECKOUT, GRAPHSCHED_COMPILE_JOBS=jobs) == expected


def test_where_no_other_process_starts_kernels_are_compiled_here(tmp_path: Path) -> None:
    code = TOGETHER.replace(
        "kernels, heard", "compilation.sys.executable = '/no such program'\nkernels, heard"
    )
    assert run(tmp_path, code, PYTHONPATH=CHECKOUT, GRAPHSCHED_COMPILE_JOBS="2") == "alone"


def test_another_target_does_not_load_these_kernels(copy: Path) -> None:
    assert run(copy) == "miss"
    assert run(copy, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="") == "miss"
    assert run(copy) == "hit"


def test_nothing_compiles_at_import() -> None:
    code = (
        "import graphsched.backends.cpu as b, gc; from graphsched.backends.cpu.language.jit import Kernel; "
    )
    code += "print(sum('compiled' in vars(o) for o in gc.get_objects() if isinstance(o, Kernel)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_versions_and_variants_do_not_share_files(copy: Path) -> None:
    """Else two processes that compile at the same time could load each other's code."""
    assert run(copy) == "miss"
    simd = copy / "graphsched" / "backends" / "cpu" / "language" / "simd.py"
    before = simd.read_text()
    simd.write_text(before + "\n# an edit\n")
    assert run(copy) == "miss"
    simd.write_text(before)
    assert run(copy) == "hit"
    versions = list((copy / "cache" / "kernels").iterdir())
    assert len(versions) == 2
    assert {len(list(v.rglob("*.kernel"))) for v in versions} == {1}


def test_a_helper_has_no_machine_code_and_works_from_python() -> None:
    def twice(x: Any) -> Any:
        return 2 * x

    doubled: Any = helper(twice)
    assert (doubled(21), doubled(1.5), doubled(21)) == (42, 3.0, 42)
    assert {
        overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
        for overload in doubled.overloads.values()
    } == {0}


def test_old_versions_are_forgotten(copy: Path) -> None:
    folder = copy / "cache" / "kernels"
    for name, age in (("old", 31), ("young", 29)):
        (folder / name).mkdir(parents=True)
        written = time.time() - age * 24 * 3600
        os.utime(folder / name, (written, written))
    assert run(copy) == "miss"
    assert not (folder / "old").exists()
    assert (folder / "young").exists()


OWN = """
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.mathfn import sigmoid
from graphsched.backends.cpu.language.simd import load, store
from graphsched.backends.cpu.program.kernel_args import arguments

@kernel("x -> y")
def own():
    def run(step, block, ith, nth):
        x, y = arguments(step)
        store(y, sigmoid(load(x, 0, 16)), 0)
    return run
"""
RUN_OWN = """
import sys
import numpy as np
sys.path.insert(0, "packages")
from {module} import own
from graphsched.backends.cpu.program.layout import STEP_ARGS
x, y = np.zeros(16, np.float32), np.zeros(16, np.float32)
step = np.zeros(STEP_ARGS + 2, np.int64)
step[STEP_ARGS:] = x.ctypes.data, y.ctypes.data
own().call(step.ctypes.data, 0, 0, 1)
print("hit" if own().was_cached else "miss", y[0])
"""


@pytest.mark.parametrize("module", ["alone", "package.kernels"])
def test_a_kernel_of_another_package_follows_what_it_calls(copy: Path, module: str) -> None:
    """It inlines helpers of the backend, and those beside it: an edit there compiles it again."""
    file = copy / "packages" / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(parents=True)
    if "." in module:
        (file.parent / "__init__.py").touch()
    file.write_text(OWN)
    code = RUN_OWN.format(module=module)
    assert (run(copy, code), run(copy, code)) == ("miss 0.5", "hit 0.5")
    mathfn = copy / "graphsched" / "backends" / "cpu" / "language" / "mathfn.py"
    mathfn.write_text(mathfn.read_text().replace("return div(one, ", "return div(add(one, one), "))
    assert run(copy, code) == "miss 1.0"
    (file.parent / "beside.py").touch()
    assert run(copy, code) == ("miss 1.0" if "." in module else "hit 1.0")
    file.write_text(OWN + "\n# an edit\n")
    assert run(copy, code) == "miss 1.0"


@pytest.mark.parametrize(
    ("declaration", "body", "sentence"),
    [
        ("x -> y", "y, x = arguments(step)", r"kernel own declares x, y: it begins with these names"),
        ("x -> y", "x, y = arguments(step); put(y, wrong)", r"kernel own closes over wrong, which is no int"),
        ("x x", "x, x = arguments(step)", r"kernel own declares an argument twice: x x"),
        ("| rows", "(rows,) = arguments(step)", r"kernel own cannot have an argument named 'rows'"),
        ("x | n | eps | more", "pass", r"kernel own declares more than operands"),
    ],
)
def test_a_kernel_that_cannot_be(declaration: str, body: str, sentence: str) -> None:
    source = (
        f"def own():\n    wrong = 0.5\n    def run(step, block, ith, nth):\n        {body}\n    return run\n"
    )
    scope: dict[str, Any] = {}
    exec(source, {"arguments": None, "put": None}, scope)
    with pytest.raises(KernelError, match=sentence):
        _ = kernel(declaration)(scope["own"])().compiled


def buffer(name: str) -> Operand:
    return dense(Buffer(name, 4), TensorType(dtypes.F32, (1,)))


def test_arguments_are_bound_by_name() -> None:
    signature = parse("own", "x w? -> y | n | eps", each="a -> b")
    x, y, a, b = map(buffer, "xyab")
    assert signature.bind({"x": x, "n": 3, "y": y, "eps": 2}) == (x, 0, Out(y), 3, 2.0)
    assert [type(v) for v in signature.bind({"x": x, "n": 3, "y": y, "eps": 2})[3:]] == [int, float]
    bound = signature.bind({"x": x, "n": 3, "y": y, "eps": 0.5}, [{"a": a, "b": b}])
    assert bound[5:] == (a, Out(b))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n": 0.5}, "kernel own: integer n cannot take float 0.5"),
        ({"n": True}, "kernel own: integer n cannot take bool True"),
        ({"eps": "1"}, "kernel own: float eps cannot take str '1'"),
        ({"x": None}, "kernel own: operand x cannot take NoneType None"),
        ({"x": 4096}, "kernel own: operand x cannot take int 4096"),
        ({"m": 3}, "kernel own has no argument m; it takes x, w, y, n, eps"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], sentence: str) -> None:
    args: dict[str, Any] = {"x": buffer("x"), "y": buffer("y"), "n": 3, "eps": 0.5} | change
    with pytest.raises(KernelError, match=re.escape(sentence)):
        parse("own", "x w? -> y | n | eps").bind(args)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(KernelError, match="kernel own misses n; it takes x, n"):
        parse("own", "x | n").bind({"x": buffer("x")})
    with pytest.raises(KernelError, match=r"kernel own, each\[1\] misses a"):
        parse("own", "x", each="a").bind({"x": buffer("x")}, [{"a": buffer("a")}, {}])
    with pytest.raises(KernelError, match="kernel own has no repeated arguments"):
        parse("own", "x").bind({"x": buffer("x")}, [{}])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_vectors_that_stay_in_registers_are_code_for_any_number_of_them(n: int) -> None:
    """One is no struct: a machine with wide registers has one where others have two."""
    kind = ir.VectorType(ir.IntType(8), 16)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(kind, [kind] * n), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    kept = as_they_are(builder, list(function.args))
    assert len(kept) == n
    builder.ret(kept[-1])
    llvm.parse_assembly(str(module)).verify()
