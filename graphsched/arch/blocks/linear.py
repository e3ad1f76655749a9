"""Linear layers, norms, embedding and head."""

from typing import Any

from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.errors import OptionError
from graphsched.graph.ops import get_rows, layer_norm, mul_mat, rms_norm, scale
from graphsched.graph.tensor import Tensor


def normed(c: Any, x: Tensor) -> Tensor:
    """rms(x) over the last dimension, or LayerNorm where the config has an epsilon of that only"""
    return layer_norm(x, eps=c.ln_eps) if c.ln_eps and not c.rms_eps else rms_norm(x, eps=c.rms_eps)


def norm(c: Any, x: Tensor, blk: Weights, name: str) -> Tensor:
    """normed(x) · w [+ bias] over the last dimension, with the config's epsilon"""
    y = normed(c, x) * blk.sized(name, x.shape[-1])
    return y + blk.sized(f"{name}.bias", x.shape[-1]) if f"{name}.bias" in blk else y


def norm_by_row(c: Any, x: Tensor, blk: Weights, name: str) -> Tensor:
    """As norm, with weights of its own for each row of a token. [T, n, d] -> [T, n, d]"""
    shape = x.shape[1:] if x.shape[1] > 1 else x.shape[2:]
    return normed(c, x) * blk.shaped(name, *shape)


def scaled(x: Tensor, by: float) -> Tensor:
    """by · x; x itself for 0, by which files say that there is no factor"""
    return scale(x, by=by) if by not in (0.0, 1.0) else x


def linear(blk: Weights, name: str, x: Tensor, n: int | None = None, *, bias: bool | None = None) -> Tensor:
    """x · Wᵀ [· scale] [+ bias], as far as the file has them. [T, in] -> [T, n]

    Of a feed-forward the bias is scaled, too.
    bias: whether the file must have one (True) or must not (False); None takes what is there.
    """
    w = blk.sized(name, n, x.shape[-1]) if n is None else blk.stacked(name, n, int(x.shape[-1]))
    has_bias = f"{name}.bias" in blk if bias is None else bias
    y = mul_mat(w, x)
    if has_bias and name.startswith("ffn_"):  # llama.cpp's order
        y = y + blk.sized(f"{name}.bias", w.shape[0])
    if f"{name}.scale" in blk:  # of files that keep the scale of a matrix apart
        y = y * blk.sized(f"{name}.scale", 1)
    if has_bias and not name.startswith("ffn_"):
        y = y + blk.sized(f"{name}.bias", w.shape[0])
    return y


def embed(c: Any, w: Weights, inp: Inputs) -> Tensor:
    """The rows of the embedding matrix. [T] -> [T, D]"""
    return get_rows(w.sized("token_embd", None, c.n_embd), inp.tokens)


def embed_at_positions(c: Any, w: Weights, inp: Inputs) -> Tensor:
    """The same, plus the rows of the learned positions. OptionError for a context with more of them. [T] -> [T, D]"""
    positions = w.sized("position_embd", None, c.n_embd)
    if inp.n_kv > positions.shape[0]:
        sentence = f"is {inp.n_kv} tokens, the model has learned {int(positions.shape[0])} positions"
        raise OptionError(sentence, "n_ctx")
    return embed(c, w, inp) + get_rows(positions, inp.pos)


def head(
    c: Any,
    w: Weights,
    x: Tensor,
    *,
    tied: bool | None = None,
    bias: bool | None = None,
    final: str = "output_norm",
) -> Tensor:
    """The norm `final` and the output projection. [T, D] -> [T, V]"""
    return project(w, norm(c, x, w, final), tied=tied, bias=bias)


def project(w: Weights, x: Tensor, *, tied: bool | None = None, bias: bool | None = None) -> Tensor:
    """The output projection; tied to the embedding without output.weight. [T, D] -> [T, V]"""
    n_vocab = w.sized("token_embd", None, None).shape[0]
    tied = "output" not in w if tied is None else tied
    return linear(w, "token_embd" if tied else "output", x, n_vocab, bias=bias)
