"""Costs of nodes at the actual lengths of a run: operations, bytes, and the kind of arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from graphsched.graph.numbers import Op
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes
from graphsched.types.dtypes import DType
from graphsched.types.shapes import Lengths


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of one node; `kind` names the rate that applies.

    product: op and type of its matrices, as "MUL_MAT Q4_0", empty if it has none; chosen and joined matrices count as
    MUL_MAT, for these multiply with the same kernels. rows: of activations for each matrix that is read.
    """

    flops: float
    nbytes: float
    kind: str
    product: str = ""
    rows: float = 0.0


def cost_of(node: Tensor, lengths: Mapping[str, int]) -> Cost:
    """A node's cost at actual lengths; experts count as often as they are expected to be used."""
    actual = Lengths(lengths)
    attrs = {k: _resolved(v, actual) for k, v in node.attrs.items()}
    # Of a pool each token computes with the cells that it sees, while all of its sequence's tokens read them once.
    flops = node.declaration.count_flops(
        *(TensorType(s.dtype, actual.seen(s.shape)) for s in node.sources), **attrs
    )
    types = [TensorType(s.dtype, actual.read(s.shape)) for s in node.sources]
    result = TensorType(node.dtype, actual.read(node.shape))
    product, rows = _product(node, types, flops)
    return Cost(flops, _bytes(node, types, result, attrs), kind_of(node), product, rows)


def _product(node: Tensor, types: list[TensorType], flops: float) -> tuple[str, float]:
    """`Cost.product` and `Cost.rows`."""
    traits = node.traits
    if not traits.product:
        return "", 0.0
    by_name = dict(zip(node.declaration.operands, types, strict=False))
    matrices = [by_name[name] for name in traits.product if name in by_name]
    numel = float(sum(m.numel for m in matrices))
    if traits.chosen_by:
        numel *= used_share(matrices[0].shape[0], by_name[traits.chosen_by].shape)
    op = node.op if traits.rate else Op.MUL_MAT
    # Of a run that wants no logits some nodes have no rows.
    return product_name(op.name, matrices[0].dtype), flops / (2 * numel) if numel else 0.0


def product_name(op: str, dtype: DType) -> str:
    """The name under which a product is measured."""
    return f"{op} {dtype.name}"


def _resolved(value: Any, actual: Lengths) -> Any:
    return actual.shape(value) if isinstance(value, tuple) else value


def _bytes(node: Tensor, types: list[TensorType], result: TensorType, attrs: Mapping[str, Any]) -> float:
    if node.traits.chosen_by:
        by_name = dict(zip(node.declaration.operands, types, strict=False))
        matrices = [by_name.pop(name) for name in node.traits.product]
        share = used_share(matrices[0].shape[0], by_name[node.traits.chosen_by].shape)
        others = sum(t.nbytes for t in by_name.values())
        return share * sum(t.nbytes for t in matrices) + others + result.nbytes
    if node.declaration.count_bytes:
        return node.declaration.count_bytes(*types, **attrs)
    return result.nbytes + sum(t.nbytes for t in types)


def used_share(n_expert: int, ids: tuple[int, ...]) -> float:
    """Expected share of experts that ids [tokens, n_used] name: a token's are distinct, tokens choose independently."""
    n_used = prod(ids[1:])
    return float(1.0 - (1.0 - min(n_used / n_expert, 1.0)) ** ids[0])


def kind_of(node: Tensor) -> str:
    """The kind of arithmetic, by which a processor has a rate: products by their weights' type, all else f32."""
    traits = node.traits
    if traits.rate or not traits.product:
        return traits.rate or "f32"
    weight = node.operand(traits.product[0]).dtype
    if weight.block > 1:
        return "int8"
    return {dtypes.F32.id: "f32", dtypes.BF16.id: "bf16"}.get(weight.id, "f16")
