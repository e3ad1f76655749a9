"""Python steps: a node without a kernel runs by its numpy reference, on the memory of its operands."""

from typing import Any

from numpy.typing import NDArray

from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Addresses, PythonStep
from graphsched.types.shapes import Lengths

Array = NDArray[Any]


def evaluate(node: Tensor, sources: list[Array], actual: Lengths) -> Array:
    """One node by its reference; capacities in attributes become actual lengths."""
    attrs = {k: actual.shape(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
    return node.declaration.evaluate(*sources, **attrs)


def run_python(step: PythonStep, addresses: Addresses, actual: Lengths) -> None:
    """Runs one step on views of its operands' memory."""
    sources = [addresses.values(o, actual.shape(o.type.shape)) for o in step.sources]
    result = addresses.array(step.result, actual.shape(step.result.type.shape))
    result[...] = evaluate(step.node, sources, actual)
