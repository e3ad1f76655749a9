"""Linear layers, norms, embedding and head."""

from typing import Any

from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import get_rows, mul_mat, rms_norm, scale
from graphsched.graph.tensor import Tensor


def norm(c: Any, x: Tensor, blk: Weights, name: str) -> Tensor:
    """rms(x) · w [+ bias] over the last dimension, with the config's epsilon"""
    y = rms_norm(x, eps=c.rms_eps) * blk.sized(name, x.shape[-1])
    return y + blk.sized(f"{name}.bias", x.shape[-1]) if f"{name}.bias" in blk else y


def norm_by_row(c: Any, x: Tensor, blk: Weights, name: str) -> Tensor:
    """As norm, with weights of its own for each row of a token. [T, n, d] -> [T, n, d]"""
    shape = x.shape[1:] if x.shape[1] > 1 else x.shape[2:]
    return rms_norm(x, eps=c.rms_eps) * blk.shaped(name, *shape)


def scaled(x: Tensor, by: float) -> Tensor:
    """by · x; x itself for 0, by which files say that there is no factor"""
    return scale(x, by=by) if by not in (0.0, 1.0) else x


def linear(blk: Weights, name: str, x: Tensor, n: int | None = None, *, bias: bool | None = None) -> Tensor:
    """x · Wᵀ [· scale] [+ bias], as far as the file has them. [T, in] -> [T, n]

    bias: whether the file must have one (True) or must not (False); None takes what is there.
    """
    # Files leave out the first axis of a matrix with one row.
    w = blk.sized(name, n, x.shape[-1]) if n is None else blk.shaped(name, n, int(x.shape[-1]))
    y = mul_mat(w, x)
    if f"{name}.scale" in blk:  # ternary matrices of files that keep the scale apart
        y = y * blk.sized(f"{name}.scale", 1)
    if bias or (bias is None and f"{name}.bias" in blk):
        y = y + blk.sized(f"{name}.bias", w.shape[0])
    return y


def embed(c: Any, w: Weights, inp: Inputs) -> Tensor:
    """The rows of the embedding matrix. [T] -> [T, D]"""
    return get_rows(w.sized("token_embd", None, c.n_embd), inp.tokens)


def head(
    c: Any,
    w: Weights,
    x: Tensor,
    *,
    tied: bool | None = None,
    bias: bool | None = None,
    final: str = "output_norm",
) -> Tensor:
    """The norm `final` and output projection; tied to the embedding without output.weight. [T, D] -> [T, V]"""
    n_vocab = w.sized("token_embd", None, None).shape[0]
    tied = "output" not in w if tied is None else tied
    return linear(w, "token_embd" if tied else "output", norm(c, x, w, final), n_vocab, bias=bias)
