"""What bench_ops measures: every op at the shapes of real models, for some number of tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from graphsched.arch.cells import blocks_of
from graphsched.graph import ops
from graphsched.graph.opdef import Case, Op, case
from graphsched.graph.ops.matmul import WEIGHT_TYPES
from graphsched.graph.tensor import TensorType, f32, i32
from graphsched.run.repack import INTERLEAVED
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

PRODUCT_TYPES: Final = (*WEIGHT_TYPES, *dict.fromkeys(INTERLEAVED.values()))
CACHE_TYPES: Final = tuple(map(dtypes.by_name, ("F32", "F16", "Q8_0", "Q4_0")))
VIEWS: Final = frozenset({Op.RESHAPE, Op.VIEW, Op.PERMUTE, Op.PART})  # no work of their own

# Rows and columns of matrices, by model.
MATRICES: Final = (
    ("Llama 1.1B attn_q", 2048, 2048),
    ("Llama 1.1B ffn_up", 5632, 2048),
    ("Llama 1.1B ffn_down", 2048, 5632),
    ("Llama 1.1B output", 32000, 2048),
    ("Llama 8B attn_q", 4096, 4096),
    ("Llama 8B ffn_up", 14336, 4096),
    ("Llama 8B ffn_down", 4096, 14336),
    ("BitNet 2B ffn_up", 6912, 2560),
)
PROJECTIONS: Final = (("Llama 1.1B", 2048, 256, 2048), ("Llama 8B", 4096, 1024, 4096))
# Experts, experts used, width inside and outside of them.
MIXTURES: Final = (("DeepSeek-V2-Lite", 64, 6, 1408, 2048), ("Qwen3-30B-A3B", 128, 8, 768, 2048))
# Heads, key-value heads, width of keys and of values.
ATTENTIONS: Final = (
    ("Llama 1.1B", 32, 4, 64, 64),
    ("Llama 8B", 32, 8, 128, 128),
    ("DeepSeek-V2-Lite MLA", 16, 1, 576, 512),
)
CELLS: Final = (512, 4096, 32768)
MOST_SCORES: Final = 512 * 4096  # of a head: longer prompts over longer caches take seconds
WIDTHS: Final = (
    ("Llama 1.1B", 2048, 5632, 32, 64),
    ("Llama 8B", 4096, 14336, 32, 128),
)  # d, ffn, heads, head


@dataclass(frozen=True)
class Shape:
    """One op with operands: `type` is what -type selects, `model` whose shape it is."""

    op: Op
    type: str
    model: str
    tokens: int
    case: Case

    @property
    def text(self) -> str:
        return " ".join(
            "x".join(map(str, map(int, t.shape))) for t in self.case.types if t.dtype != dtypes.I32
        )


def shapes(tokens: int) -> Iterator[Shape]:
    """All of them, products first."""
    for part in (
        products,
        projections,
        by_expert,
        attentions,
        recurrences,
        sparse,
        scores,
        rows_of_width,
        chosen,
        moved,
    ):
        yield from part(tokens)


def _of(op: Op, type: str, model: str, tokens: int) -> Callable[[Case], Shape]:
    return lambda made: Shape(op, type, model, tokens, made)


def products(tokens: int) -> Iterator[Shape]:
    for t in PRODUCT_TYPES:
        for model, rows, k in MATRICES:
            if k % t.block == 0:
                made = case(TensorType(t, (rows, k)), f32(tokens, k))
                yield Shape(Op.MUL_MAT, t.name, model, tokens, made)


def projections(tokens: int) -> Iterator[Shape]:
    """Queries, keys and values of one token."""
    for t in PRODUCT_TYPES if tokens == 1 else ():
        for model, rows, kv, k in PROJECTIONS:
            if k % t.block == 0:
                q, other = TensorType(t, (rows, k)), TensorType(t, (kv, k))
                yield Shape(Op.MUL_MAT_QKV, t.name, model, tokens, case(f32(tokens, k), q, other, other))


def by_expert(tokens: int) -> Iterator[Shape]:
    for t in PRODUCT_TYPES:
        for model, n, used, inner, width in MIXTURES:
            if width % t.block == 0:
                up, ids = TensorType(t, (n, inner, width)), i32(tokens, used)
                made = case(up, up, f32(tokens, 1, width), ids, ints={3: (0, n)}, kind="silu")
                yield Shape(Op.MOE_FUSED_UP_GATE, t.name, model, tokens, made)
            if inner % t.block == 0:
                down, x = TensorType(t, (n, width, inner)), f32(tokens, used, inner)
                made = case(down, x, i32(tokens, used), ints={2: (0, n)})
                yield Shape(Op.MUL_MAT_ID, t.name, model, tokens, made)
    for model, n, used, inner, _ in MIXTURES:
        made = case(f32(tokens, used, inner), f32(n, inner), i32(tokens, used), ints={2: (0, n)})
        yield Shape(Op.ADD_ID, "F32", model, tokens, made)


def attentions(tokens: int) -> Iterator[Shape]:
    for t in CACHE_TYPES:
        for model, heads, kv, dk, dv in ATTENTIONS:
            for cells in CELLS:
                if tokens <= cells and tokens * cells <= MOST_SCORES:
                    yield Shape(
                        Op.FLASH_ATTN_EXT,
                        t.name,
                        model,
                        tokens,
                        _attention(t, tokens, heads, kv, dk, dv, cells),
                    )


def _attention(t: DType, tokens: int, heads: int, kv: int, dk: int, dv: int, cells: int) -> Case:
    k, v = TensorType(t, (cells, kv, dk)), TensorType(t, (cells, kv, dv))
    return case(f32(tokens, heads, dk), k, v, i32(tokens, 3), i32(blocks_of(cells)), scale=dk**-0.5)


def recurrences(tokens: int) -> Iterator[Shape]:
    """Convolutions, delta rules and scans of one sequence."""
    for model, channels in (("Qwen3.5-35B-A3B", 8192), ("Mamba2 64x64", 6144)):
        made = case(f32(1, 3, channels), f32(tokens, channels), f32(channels, 4), i32(tokens, 3))
        yield Shape(Op.SSM_CONV, "F32", model, tokens, made)
    state, qk, v = f32(1, 32, 128, 128), f32(tokens, 16, 128), f32(tokens, 32, 128)
    beta = f32(tokens, 32)
    for model, g, k in (("Qwen3.5-35B-A3B", beta, qk), ("Kimi-Linear-48B-A3B", v, v)):
        made = case(state, k, k, v, g, beta, i32(tokens, 3), tiled=False)
        yield Shape(Op.GATED_DELTA_NET, "F32", model, tokens, made)
    yield Shape(Op.L2_NORM, "F32", "Qwen3.5-35B-A3B", tokens, case(qk, eps=1e-6))
    state, x, bc = f32(1, 64, 64, 128), f32(tokens, 64, 64), f32(tokens, 8, 128)
    for model, a in (("Mamba2 64x64", f32(64, 1)), ("Mamba2 64x64, A per element", f32(64, 128))):
        made = case(state, x, f32(tokens, 64), a, bc, bc, i32(tokens, 3))
        yield Shape(Op.SSM_SCAN, "F32", model, tokens, made)


def sparse(tokens: int) -> Iterator[Shape]:
    """Indexers, attention over what they choose, and hyper-connections, over a context of 4096."""
    n, seen = 4096, (i32(tokens, 3), i32(blocks_of(4096)))
    bits = i32(tokens, 1, blocks_of(n))
    for t in CACHE_TYPES:
        k, w = TensorType(t, (n, 1, 128)), f32(tokens, 64)
        made = case(f32(tokens, 64, 128), k, *seen, w, n_positions=n, top_k=2048)
        yield Shape(Op.LIGHTNING_INDEXER, t.name, "DeepSeek-V3.2", tokens, made)
        row, latent = TensorType(t, (n, 1, 576)), TensorType(t, (n, 1, 512))
        made = case(f32(tokens, 128, 576), row, latent, *seen, bits, scale=0.1, n_chosen=2048)
        yield Shape(Op.SPARSE_ATTN, t.name, "DeepSeek-V3.2", tokens, made)
        how: dict[str, Any] = {"scale": 0.05, "window": 128, "size": 4, "n_chosen": 512}
        made = case(f32(tokens, 64, 512), latent, *seen, latent, *seen, f32(64), bits, **how)
        yield Shape(Op.COMPRESSED_ATTN, t.name, "DeepSeek-V4", tokens, made)
        wide = TensorType(t, (n, 1, 1024))
        made = case(wide, *seen, wide, f32(4, 1024), size=4, overlap=True)
        yield Shape(Op.POOL_ROWS, t.name, "DeepSeek-V4", tokens, made)
    made = case(f32(tokens, 24), f32(3), f32(24), n=4, rounds=20, eps=1e-6)
    yield Shape(Op.HC_WEIGHTS, "F32", "DeepSeek-V4", tokens, made)


def scores(tokens: int) -> Iterator[Shape]:
    """Softmax of experts and, without flash attention, of scores."""
    yield Shape(Op.SOFT_MAX, "F32", "DeepSeek-V2-Lite experts", tokens, case(f32(tokens, 64)))
    for cells in (n for n in CELLS[:2] if tokens <= n):
        x, mask = f32(tokens, 32, cells), (i32(tokens, 3), i32(cells, 2))
        yield Shape(Op.SOFT_MAX, "F32", "Llama 1.1B scores", tokens, case(x, *mask, scale=0.125))
        yield Shape(Op.SOFT_CAP_MAX, "F32", "32 heads", tokens, case(x, *mask, cap=50.0, scale=0.125))


def rows_of_width(tokens: int) -> Iterator[Shape]:
    """Norms, rotation, and what is done element by element."""
    for model, width, ffn, heads, head in WIDTHS:
        x, h, z = f32(tokens, width), f32(tokens, ffn), f32(tokens, heads, head)

        def of(op: Op, made: Case, model: str = model) -> Shape:
            return Shape(op, "F32", model, tokens, made)

        yield of(Op.NORM, case(x, eps=1e-5))
        yield of(Op.FUSED_NORM, case(x, f32(width), eps=1e-5))
        yield of(Op.RMS_NORM, case(x, eps=1e-6))
        yield of(Op.FUSED_RMS_NORM, case(x, f32(width), eps=1e-6))
        yield of(Op.FUSED_ADD_RMS_NORM, case(x, x, f32(width), eps=1e-6))
        for mode in ("norm", "neox"):
            turned = case(z, i32(tokens), ints={1: (0, 4096)}, rope=ops.Rope(head, mode=mode))
            yield Shape(Op.ROPE, "F32", f"{model} {mode}", tokens, turned)
            both = case(z, z, i32(tokens), ints={2: (0, 4096)}, rope=ops.Rope(head, mode=mode))
            yield Shape(Op.FUSED_ROPE, "F32", f"{model} {mode}", tokens, both)
        yield of(Op.TEMPERATURE_SCALE, case(z, i32(tokens), ints={1: (0, 4096)}, length=8192, slope=0.1))
        for op in (Op.ADD, Op.MUL):
            yield of(op, case(x, x))
        yield of(Op.DIV, case(x, f32(tokens, 1)))
        yield of(Op.SCALE, case(x, by=0.5))
        yield of(Op.SQR, case(x))
        yield of(Op.CLAMP, case(x, low=-1.0, high=1.0))
        yield of(Op.SOFTCAP, case(x, cap=30.0))
        yield of(Op.XIELU, case(x, alpha_n=0.9, alpha_p=0.8, beta=0.5, eps=-1e-6))
        yield of(Op.SUM_ROWS, case(x))
        for kind in ("silu", "gelu", "relu", "sigmoid", "softplus", "sqrt_softplus"):
            yield Shape(Op.UNARY, "F32", f"{model} {kind}", tokens, case(h, kind=kind))
            yield Shape(Op.FUSED_MUL_UNARY, "F32", f"{model} {kind}", tokens, case(h, h, kind=kind))
        yield of(Op.SWIGLU_OAI, case(h, h))


def chosen(tokens: int) -> Iterator[Shape]:
    """What a mixture does besides products."""
    yield Shape(Op.ARGSORT, "F32", "DeepSeek-V2-Lite", tokens, case(f32(tokens, 64), k=6))
    yield Shape(Op.TOPK_MOE, "F32", "DeepSeek-V2-Lite", tokens, case(f32(tokens, 64), k=6))
    grouped = case(f32(tokens, 256), k=8, n_group=8, n_group_used=4)
    yield Shape(Op.GROUPED_TOPK, "F32", "DeepSeek-V3", tokens, grouped)
    for model, _, used, _, width in MIXTURES:
        yield Shape(Op.MULTI_ADD, "F32", model, tokens, case(f32(tokens, used, width)))


def moved(tokens: int) -> Iterator[Shape]:
    """Rows read, stored, copied and joined."""
    for t in WEIGHT_TYPES:
        made = case(TensorType(t, (32000, 2048)), i32(tokens), ints={1: (0, 32000)})
        yield Shape(Op.GET_ROWS, t.name, "Llama 1.1B embedding", tokens, made)
    for t in CACHE_TYPES:
        rows, cache = f32(tokens, 8, 128), TensorType(t, (4096, 8, 128))
        made = case(cache, rows, i32(tokens), ints={2: (0, 4096)}, dtype=t)
        yield Shape(Op.SET_ROWS, t.name, "Llama 8B cache", tokens, made)
    if tokens == 1:
        state = f32(9, 32, 128, 128)
        yield Shape(Op.COPY_ROWS, "F32", "Qwen3.5-35B-A3B", tokens, case(state, i32(1), i32(1)))
    for t in CACHE_TYPES:
        yield Shape(Op.CPY, t.name, "Llama 8B cache", tokens, case(TensorType(t, (tokens, 8, 128))))
    yield Shape(Op.CONT, "F32", "Llama 8B", tokens, case(f32(tokens, 4096)))
    yield Shape(Op.REPEAT, "F32", "DeepSeek-V2-Lite", tokens, case(f32(tokens, 1, 64), n=16))
    yield Shape(Op.CONCAT, "F32", "DeepSeek-V2-Lite", tokens, case(f32(tokens, 16, 128), f32(tokens, 16, 64)))
