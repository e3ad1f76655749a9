"""What a GPU's kernels can do, whether there is one or not."""

from graphsched import env
from graphsched.backends.cuda import families
from graphsched.backends.cuda.launch.weights import TYPES
from graphsched.graph.opdef import lowering_for
from graphsched.graph.tensor import Tensor
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

families.attach()


def has_kernel(node: Tensor) -> bool:
    """Whether there is a lowering for a node; for fused ones only while GRAPHSCHED_CUDA_FUSION allows them."""
    allowed = node.declaration.compose is None or env.cuda_fusion()
    return allowed and lowering_for("cuda", node) is not None


def kernel_type(leaf: Tensor) -> DType:
    """Norms and biases, and types without kernels, are read as float32; I2_S as IQ2_BN, which has a scale per row."""
    if leaf.kind != "weight" or (leaf.dtype in TYPES and len(leaf.shape) > 1):
        return leaf.dtype
    return dtypes.IQ2_BN if leaf.dtype == dtypes.I2_S and len(leaf.shape) == 2 else dtypes.F32
