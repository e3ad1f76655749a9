"""Every op × backend × case of the op table against its numpy reference. Never edited to add an op."""

from typing import Any

import numpy as np
import pytest
from op_runs import all_cases, as_reference, draw, run_on
from running import nmse

from graphsched.graph.opdef import OPS, Case, OpDef
from graphsched.graph.tensor import Extent, TensorType
from graphsched.types import dtypes


def test_every_op_is_declared_once() -> None:
    assert all(d.run_reference is not None and d.list_cases is not None for d in OPS.values())
    assert len({d.name for d in OPS.values()}) == len(OPS)


@pytest.mark.parametrize(("definition", "case"), list(all_cases()))
def test_inference_agrees_with_reference(definition: OpDef[Any], case: Case) -> None:
    tensors, values = draw(case, definition, np.random.default_rng(1))
    node = definition(*tensors, **case.attrs)
    arrays = [as_reference(t.type, values[t.name.split(".")[0]]).copy() for t in tensors]
    out = definition.run_reference(*arrays, **case.attrs)  # type: ignore[misc]  # checked above
    assert out.shape == tuple(node.shape)
    assert out.dtype == (np.int32 if node.dtype == dtypes.I32 else np.float32)


@pytest.mark.target
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("definition", "case"), list(all_cases()))
def test_cpu_agrees_with_reference(definition: OpDef[Any], case: Case, threads: int) -> None:
    rng = np.random.default_rng(2)
    tensors, values = draw(case, definition, rng)
    node = definition(*tensors, **case.attrs)
    arrays = [as_reference(t.type, values[t.name.split(".")[0]]).copy() for t in tensors]
    expected = definition.run_reference(*arrays, **case.attrs)  # type: ignore[misc]
    got = run_on("cpu", node, tensors, values, threads)
    if node.dtype == dtypes.I32:
        np.testing.assert_array_equal(got, expected)
    else:
        assert nmse(got, expected) <= case.tolerance


def test_extent_is_a_capacity() -> None:
    e = Extent(8, "n_tokens")
    assert e == 8
    assert str(TensorType(dtypes.F32, (e, 3))) == "f32[n_tokens<=8,3]"
