"""Helpers compile as far as their callers need it: to code that is inlined, never to machine code of their own.

Numba optimises a function, writes machine code for it and wraps it for callers in Python when another one calls it.
A kernel has some seventy helpers, so machine code and wrappers would be made seventy times for nothing. Helpers are
optimised by themselves, too: products of floats inlined from plain code took a tenth longer.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class InlinedLibrary(JITCodeLibrary):
    """The optimised code of a helper, which becomes machine code where it is inlined."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class InlinedLowering(NativeLowering):
    """Lowers a function that compiled ones call, and registers it for them under a key that is no address."""

    _name = "inlined_lowering"

    def run_pass(self, state: Any) -> bool:
        """Numba's, without an executable."""
        state.library = InlinedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        # Numba's table of machine code wants a builtin function; this one is like no other.
        lowered, key = state["cr"], object().__sizeof__
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = _LowerResult(lowered.fndesc, lowered.call_helper, cfunc=key, env=lowered.env)
        return True


class InlinedCompiler(CompilerBase):
    """Numba's stages with that lowering; for `pipeline_class=`."""

    def define_pipelines(self) -> list[Any]:
        """The one pipeline."""
        stages = DefaultPassBuilder.define_nopython_pipeline(self.state)
        stages.passes = [
            (InlinedLowering, text) if stage is NativeLowering else (stage, text)
            for stage, text in stages.passes
        ]
        stages.finalize()
        return [stages]


def inlined(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A nopython function for compiled callers. Called from Python it is compiled as part of a caller made for it."""
    dispatcher = numba.njit(pipeline_class=InlinedCompiler, **options)(fn)
    caller = numba.njit(lambda *args: dispatcher(*args))
    # What Numba asks for machine code if its table has none; a helper has no entry there.
    dispatcher._insert = lambda *entry: None
    dispatcher._compile_for_args = lambda *args: caller
    return dispatcher
