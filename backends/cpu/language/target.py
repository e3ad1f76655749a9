"""What the JIT compiles for: CPU name and features, as Numba's code generator will use them."""

import functools

# Features that a CPU name alone implies; named CPUs not listed count through the host's feature string.
V2 = frozenset({"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"})
V3 = V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
USED = V3 | V4 | {"avx512vnni", "avxvnni", "neon", "dotprod", "i8mm"}  # what a listing shows
IMPLIED = {"x86-64-v2": V2, "x86-64-v3": V3, "x86-64-v4": V4}


@functools.cache
def features() -> frozenset[str]:
    """Feature names of the JIT target (honours NUMBA_CPU_NAME and NUMBA_CPU_FEATURES)."""
    from numba.core.registry import cpu_target

    _, cpu, listed = cpu_target.target_context.codegen().magic_tuple()
    on = {f[1:] for f in listed.split(",") if f.startswith("+")}
    off = {f[1:] for f in listed.split(",") if f.startswith("-")}
    return frozenset((on | IMPLIED.get(cpu, frozenset())) - off)


def name() -> str:
    """The JIT target's name, as `znver4`."""
    from numba.core.registry import cpu_target

    cpu: str = cpu_target.target_context.codegen().magic_tuple()[1]
    return cpu


def has(feature: str) -> bool:
    """Whether kernels may use a feature, by LLVM's name."""
    return feature in features()


def is_x86() -> bool:
    """Whether kernels are compiled for x86-64."""
    import platform

    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def register_bytes() -> int:
    """How wide its vectors are."""
    return 64 if has("avx512bw") else 32 if has("avx2") else 16


def has_vnni_256() -> bool:
    """Whether dot products of bytes are one instruction on 256 bits."""
    return has("avxvnni") or (has("avx512vnni") and has("avx512vl"))
