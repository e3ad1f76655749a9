"""Every op × backend × case of the op table against its numpy reference. Never edited to add an op."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from op_runs import all_cases, case_cells, draw, expected_of, raw_of, run_raw
from op_views import alike, laid, layouts, one_row
from running import nmse

from graphsched.graph.opdef import OPS, WEIGHT, Case, OpDef
from graphsched.graph.tensor import Extent, Tensor, TensorType
from graphsched.types import dtypes

Array = NDArray[Any]
CASES: list[tuple[OpDef[Any], Case]] = [param.values for param in all_cases()]
IDS = [param.id for param in all_cases()]


def kinds_of_weights(definition: OpDef[Any], case: Case) -> set[str]:
    pairs = zip(definition.operands, case.types, strict=False)
    return {type.dtype.name for name, type in pairs if definition.roles.get(name) == WEIGHT}


# Of products by expert and by several matrices few types, one of each form: their tiles and dot products are those of
# MUL_MAT, which is compiled for every type.
TILED = {"mul_mat_id", "mul_mat_up_gate", "mul_mat_qkv", "moe_fused_up_gate"}
FEW = {"F16", "Q4_0", "Q4_K", "IQ2_BN"}
USUAL = [d.name not in TILED or kinds_of_weights(d, c) <= FEW for d, c in CASES]
BY_DEFAULT = sorted(range(len(CASES)), key=lambda i: USUAL[i])  # these last: what is alike has one of them
DISTINCT = sorted({alike(*CASES[i]): i for i in BY_DEFAULT}.values())
ROWS = [(i, case) for i in DISTINCT if (case := one_row(*CASES[i]))]
LAID = [(i, name) for i in DISTINCT for name in layouts(*CASES[i])]


def agree(got: tuple[Array, ...], expected: tuple[Array, ...], tolerance: float) -> None:
    for value, right in zip(got, expected, strict=True):
        if right.dtype == np.int32:
            np.testing.assert_array_equal(value, right)
        else:
            assert nmse(value, right) <= tolerance


def test_every_op_is_declared_once() -> None:
    assert all(d.run_reference is not None and d.list_cases is not None for d in OPS.values())
    assert len({d.name for d in OPS.values()}) == len(OPS)


def test_roles_are_those_of_operands() -> None:
    assert {(d.name, name) for d in OPS.values() for name in d.roles if name not in d.operands} == set()


@cache
def computed(i: int) -> tuple[list[Tensor], dict[str, Array], tuple[Array, ...]]:
    """Leaves of case i, their values, and what the reference makes of these."""
    definition, case = CASES[i]
    tensors, values = draw(case, definition, np.random.default_rng(2))
    return tensors, values, expected_of(definition, case, tensors, values)


@pytest.mark.parametrize(
    "i",
    [
        pytest.param(i, marks=pytest.mark.target if usual else pytest.mark.slow, id=name)
        for i, (usual, name) in enumerate(zip(USUAL, IDS, strict=True))
    ],
)
def test_cpu_agrees_with_reference(i: int) -> None:
    (definition, case), (tensors, values, expected) = CASES[i], computed(i)
    node, out = definition(*tensors, **case.attrs), expected[0]
    assert out.shape == tuple(node.shape)
    assert out.dtype == (np.int32 if node.dtype == dtypes.I32 else np.float32)
    got = run_raw("cpu", node, tensors, raw_of(tensors, values), 2, case_cells(tensors))
    agree(got, expected, case.tolerance)


@pytest.mark.parametrize("i", DISTINCT, ids=[IDS[i] for i in DISTINCT])
def test_threads_change_no_bit(i: int) -> None:
    (definition, case), (tensors, values, _) = CASES[i], computed(i)
    node, raw = definition(*tensors, **case.attrs), raw_of(tensors, values)
    one, three = (run_raw("cpu", node, tensors, raw, n, case_cells(tensors)) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("i", "layout"), LAID, ids=[f"{name}-{IDS[i]}" for i, name in LAID])
def test_layouts_change_nothing(i: int, layout: str) -> None:
    """Views that have NaN around them, dimensions in another order, and operands whose memory the result may take."""
    (definition, case), (tensors, values, expected) = CASES[i], computed(i)
    leaves, raw, operands = laid(layout, definition, tensors, raw_of(tensors, values))
    got = run_raw("cpu", definition(*operands, **case.attrs), leaves, raw, 2, case_cells(tensors))
    agree(got, expected, case.tolerance)


@pytest.mark.parametrize(("i", "case"), ROWS, ids=[IDS[i] for i, _ in ROWS])
def test_one_row_of_a_case(i: int, case: Case) -> None:
    """As parts of wider rows, on more threads than rows."""
    definition = CASES[i][0]
    tensors, values = draw(case, definition, np.random.default_rng(2))
    leaves, raw, operands = laid("parts", definition, tensors, raw_of(tensors, values))
    got = run_raw("cpu", definition(*operands, **case.attrs), leaves, raw, 2, case_cells(tensors))
    agree(got, expected_of(definition, case, tensors, values), case.tolerance)


def test_extent_is_a_capacity() -> None:
    e = Extent(8, "n_tokens")
    assert e == 8
    assert str(TensorType(dtypes.F32, (e, 3))) == "f32[n_tokens<=8,3]"
