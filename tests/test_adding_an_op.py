"""The module of docs/adding-an-op.md: its kernels agree with the references, in every layout."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from op_runs import Array, case_cells, draw, expected_of, raw_of, run_raw
from op_views import LAYOUTS, laid
from running import nmse

from graphsched.graph.opdef import OPS, lowering_for

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "adding-an-op.md"


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The guide's module, imported from a file; its ops are forgotten after the tests."""
    section = GUIDE.read_text().partition("## A kernel for the CPU")[2].partition("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.S)
    file = tmp_path_factory.mktemp("package") / "own_ops.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("own_ops", file)
    assert spec is not None
    assert spec.loader is not None
    before, module = dict(OPS), importlib.util.module_from_spec(spec)
    sys.modules["own_ops"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["own_ops"]
    OPS.clear()
    OPS.update(before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["hard_sigmoid", "l1_norm"])
def test_kernels_of_the_guide(guide: ModuleType, name: str, threads: int) -> None:
    definition = getattr(guide, name)
    for case in definition.list_cases():
        tensors, values = draw(case, definition, np.random.default_rng(1))
        (expected,), raw = expected_of(definition, case, tensors, values), raw_of(tensors, values)
        results: list[Array] = []
        for layout in ("dense", *LAYOUTS):
            made = laid(layout, definition, tensors, raw) if layout in LAYOUTS else (tensors, raw, tensors)
            node = definition(*made[2], **case.attrs)
            assert lowering_for("cpu", node) is not None
            results.append(run_raw("cpu", node, made[0], made[1], threads, case_cells(tensors))[0])
        assert nmse(results[0], expected) <= case.tolerance
        assert {r.tobytes() for r in results} == {results[0].tobytes()}
