"""The contract of devices: small, and the same for the CPU, the reference, null and simulated devices."""

import inspect
from typing import Any

import numpy as np
import pytest

from graphsched.errors import OptionError
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import mul_mat
from graphsched.graph.tensor import f32, input_tensor, weight
from graphsched.run.device import Device, Setup, open_devices
from graphsched.run.runtime import open_runtime
from graphsched.types.devices import HOST

METHODS = {n for n, _ in inspect.getmembers(Device, inspect.isfunction) if not n.startswith("_")}


def test_the_contract_is_small() -> None:
    assert 1 <= len(METHODS) <= 10


@pytest.mark.parametrize(
    ("backend", "devices"), [("cpu", ("sim0", "sim1")), ("reference", ()), ("null", ("sim0",))]
)
def test_every_device_has_the_contract(backend: str, devices: tuple[str, ...]) -> None:
    opened = open_devices(backend, Setup({}, devices=devices))
    assert list(opened) == [HOST, *devices]
    for name, device in opened.items():
        assert device.name == name
        assert set(device.streams) == {"compute", "up", "down"}
        missing = {m for m in METHODS if not callable(getattr(device, m, None))}
        assert not missing


def test_unknown_backend() -> None:
    with pytest.raises(OptionError, match="no backend 'vulkan'; there are cpu, reference"):
        open_devices("vulkan", Setup({}))


def product() -> tuple[Any, dict[str, Any]]:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    return mul_mat(weight("w", f32(3, 4)), input_tensor("x", f32(2, 4))), {"w": w.view(np.uint8).reshape(-1)}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_product(backend: str) -> None:
    node, weights = product()
    runtime = open_runtime(backend, Setup(weights))
    x = runtime.input(node.sources[1])
    x[:] = [[1, 2, 3, 4], [0, 0, 0, 1]]
    executable = runtime.compile(from_outputs(node))
    executable.run({})
    np.testing.assert_array_equal(executable.outputs[0], x @ np.arange(12).reshape(3, 4).T)
