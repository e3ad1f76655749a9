"""The CUDA kernels' cases on the emulator under sanitizers: memory, undefined behaviour, data races within a block."""

import re
from pathlib import Path

import pytest
from cuda_emu.sanitized import library, run
from cuda_emu.values import FILES
from needs import needs_gxx

pytestmark = needs_gxx
MODES = ("address", "thread")

# what finds each planted bug; None: nothing, as there is none
FINDS = {
    ("neighbour", "thread"): "data race",  # a barrier is missing
    ("shared", "address"): "use-after-poison",  # past the end of a shared array
    ("global", "address"): "heap-buffer-overflow",  # past the end of an array by one number
    ("overflow", "address"): "signed integer overflow",
    ("nothing", "address"): None,
    ("nothing", "thread"): None,
}


def needs(mode: str) -> None:
    if not Path(library(mode)).is_file():
        pytest.skip(f"g++ has no library for the {mode} sanitizer")


@pytest.mark.parametrize(("bug", "mode"), FINDS)
def test_planted_bugs_are_found(bug: str, mode: str) -> None:
    needs(mode)
    done = run(mode, "planted", bug)
    words = FINDS[bug, mode]
    assert (done.returncode == 0) == (words is None), done.stderr[-2000:]
    assert words is None or words in done.stderr


# by default kernels that share memory between threads in each of the ways there are, for one type
SOME: dict[str, tuple[dict[str, tuple[str, ...]], str]] = {
    "address": (
        {
            "w2a8": (),
            "quantize": (),
            "norm": (),
            "matmul": ("q4_0",),
            "scores": ("f16",),
            "recurrent": ("64",),
        },
        "w2a8-37 w2a8-fused w2a8-part w2a8-rows quantize rms_norm matvec-q4_0 "
        "rows-f16-9 columns-f16-23 soft_max_seen-5 ssm_conv delta-64 delta-channels-64 ssm_scan-64",
    ),
    "thread": (
        {
            "w2a8": (),
            "norm": (),
            "prompt": (),
            "gemm": (),
            "moe": ("q4_0",),
            "scores": ("f16",),
            "rows": (),
            "elementwise": (),
            "copy": ("q4_0",),
        },
        "w2a8-37 quantize_token rms_norm-3 prompt-2q gemm-f16-64x64 route matvec_id-q4_0 "
        "rows-f16-9 columns-f16-23 soft_max_seen",
    ),
}


@pytest.mark.ci  # building with a sanitizer takes half a minute each
@pytest.mark.parametrize("mode", MODES)
def test_cases(mode: str) -> None:
    needs(mode)
    passes(mode, *SOME[mode])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_all_cases(mode: str) -> None:
    needs(mode)
    passes(mode, FILES, "")


def passes(mode: str, files: dict[str, tuple[str, ...]], names: str) -> None:
    done = run(mode, files, names)
    last = done.stdout.splitlines()[-2:]
    assert done.returncode == 0, "\n".join([*last, done.stderr[:4000]])
    found = re.fullmatch(r"(\d+) cases passed", last[-1])
    assert found
    assert int(found[1]) > 10
