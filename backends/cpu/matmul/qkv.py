"""The product of one token with several matrices of one type: queries, keys and values in one step."""

from collections.abc import Callable

from graphsched.backends.cpu.formats.interleaved import ROW_FORMS
from graphsched.backends.cpu.formats.rows import FLOAT_TYPES, PRODUCT_TYPES
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.matmul.lowering import LEAST_BYTES, activations, put_dots
from graphsched.backends.cpu.program.kernel_args import arguments, deal, repeated
from graphsched.backends.cpu.program.lowering import Low
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor


@kernel("x d? isum? | k row_bytes least matrices total", each="w -> y | n")
def mat_vec_qkv(kind: int) -> Callable[..., None]:
    """y_i[n] = w_i[n] · x; threads are dealt the rows of all matrices, as if they were one."""
    at_once = ROW_FORMS[kind].rows if kind in ROW_FORMS else 1

    def product(step: int, run: int, ith: int, nth: int) -> None:
        x, d, isum, k, row_bytes, least, matrices, total = arguments(step)
        units = total // at_once
        first, last = deal(step, ith, nth, units, least)
        while first < last:
            before = 0
            for i in range(matrices):
                w, y, n = repeated(step, i)
                n_units = n // at_once
                for unit in range(max(first - before, 0), min(last - before, n_units)):
                    r = unit * at_once
                    put_dots(kind, y + 4 * r, w + r * row_bytes, x, d, isum, k)
                before += n_units
            first, last = deal(step, ith, nth, units, least)

    return product


def _is_one_token(node: Tensor) -> bool:
    x, *weights = node.sources
    fits = x.shape[-1] % 32 == 0 or weights[0].dtype in FLOAT_TYPES
    return fits and int(x.shape[0]) == 1 and len(x.shape) == 2


@ops.mul_mat_qkv.lowering("cpu", when=_is_one_token, strided=("x",), q=PRODUCT_TYPES)
def _(low: Low, node: Tensor) -> None:
    x, *weights = node.sources
    dtype, k = weights[0].dtype, x.shape[1]
    row_bytes = dtype.row_bytes(k)
    pairs = zip(weights, low.results(node), strict=True)
    low.step(
        mat_vec_qkv(dtype.id),
        **activations(low, x, dtype),
        k=k,
        row_bytes=row_bytes,
        least=-(-LEAST_BYTES // row_bytes),
        matrices=len(weights),
        total=sum(w.shape[0] for w in weights),
        each=[{"w": low.operand(w), "y": y, "n": w.shape[0]} for w, y in pairs],
    )
