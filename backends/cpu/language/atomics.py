"""Atomic words, spinning and parking: what the worker pool and kernels synchronise with."""

import sys
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.vector import I64_T, call, pointer

FUTEX = 202 if sys.platform.startswith("linux") else 0  # x86-64's number
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129


@intrinsic
def load_word(typingctx: Any, addr: Any) -> Any:
    """Reads an int64 with acquire ordering."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(pointer(builder, args[0], I64_T), "acquire", 8, typ=I64_T)

    return types.int64(types.int64), codegen


@intrinsic
def store_word(typingctx: Any, addr: Any, value: Any) -> Any:
    """Writes an int64, sequentially consistent."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[1], pointer(builder, args[0], I64_T), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def write_word(typingctx: Any, addr: Any, value: Any) -> Any:
    """Writes an int64 that no other thread reads meanwhile."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], pointer(builder, args[0], I64_T))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, addr: Any, value: Any) -> Any:
    """Adds to an int64 and returns what it held."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", pointer(builder, args[0], I64_T), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tells the core that this is a spin loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if target.is_x86():
            call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def cycles(typingctx: Any) -> Any:
    """The cycle counter: about 10 ns a read, constant rate on every x86-64 of the last decade."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call(builder, "llvm.readcyclecounter", I64_T, [])

    return types.int64(), codegen


@intrinsic
def call_kernel(typingctx: Any, address: Any, step: Any, run: Any, ith: Any, nth: Any) -> Any:
    """Calls the kernel at address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        fn = ir.FunctionType(ir.VoidType(), [I64_T] * 4)
        builder.call(builder.inttoptr(args[0], fn.as_pointer()), list(args[1:]))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _libc(name: str, arguments: int) -> Any:
    @intrinsic
    def function(typingctx: Any, args: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            words = [builder.extract_value(values[0], i) for i in range(arguments)]
            return call(builder, name, I64_T, words)

        return types.int64(args), codegen

    return function


system_call = _libc("syscall", 7)
sched_yield = _libc("sched_yield", 0)
