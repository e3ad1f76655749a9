"""What a node costs at the actual lengths of a run: operations, bytes, and the kind of arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes
from graphsched.types.shapes import Lengths

MATMULS = (Op.MUL_MAT, Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE, Op.MUL_MAT_QKV)


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of one node; `kind` names the rate that applies."""

    flops: float
    nbytes: float
    kind: str


def cost_of(node: Tensor, lengths: Mapping[str, int]) -> Cost:
    """A node's cost at actual lengths; experts count as often as they are expected to be used."""
    assert node.opdef is not None
    actual = Lengths(lengths)
    types = [TensorType(s.dtype, actual.shape(s.shape)) for s in node.sources]
    attrs = {k: _resolved(v, actual) for k, v in node.attrs.items()}
    result = TensorType(node.dtype, actual.shape(node.shape))
    return Cost(node.opdef.count_flops(*types, **attrs), _bytes(node, types, result, attrs), kind_of(node))


def _resolved(value: Any, actual: Lengths) -> Any:
    return actual.shape(value) if isinstance(value, tuple) else value


def _bytes(node: Tensor, types: list[TensorType], result: TensorType, attrs: Mapping[str, Any]) -> float:
    assert node.opdef is not None
    op = node.opdef.op
    if op in (Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE):
        ids = types[-1]
        share = used_share(types[0].shape[0], ids.numel)
        weights = sum(
            t.nbytes
            for t, s in zip(types, node.sources, strict=True)
            if len(s.shape) == 3 and s.shape[0] == types[0].shape[0]
        )
        return weights * share + types[-2].nbytes + ids.nbytes + result.nbytes
    if node.opdef.count_bytes:
        return node.opdef.count_bytes(*types, **attrs)
    return result.nbytes + sum(t.nbytes for t in types)


def used_share(n_expert: int, n_choices: int) -> float:
    """Expected share of experts that n_choices independent even choices hit."""
    return 1.0 - (1.0 - 1.0 / n_expert) ** n_choices


def kind_of(node: Tensor) -> str:
    """Which rate of a processor applies: products by the type of their weights, everything else in f32."""
    assert node.opdef is not None
    if node.opdef.op is Op.FLASH_ATTN_EXT:
        return "f16"
    if node.opdef.op not in MATMULS:
        return "f32"
    weight = node.sources[1 if node.opdef.op is Op.MUL_MAT_QKV else 0].dtype
    if weight.block > 1:
        return "int8"
    return {dtypes.F32.id: "f32", dtypes.BF16.id: "bf16"}.get(weight.id, "f16")
