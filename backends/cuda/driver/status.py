"""What calls of the driver return, and what is said when they fail."""

import re
from typing import Any

from graphsched.backends.cuda.driver.signature import KernelError


def check(result: tuple[Any, ...]) -> Any:
    """The value of a cuda.bindings call, whose tuple starts with the status."""
    error, *values = result
    if int(error):
        raise KernelError(f"CUDA: {error.name}")
    return values[0] if len(values) == 1 else tuple(values)


def fault(name: str, error: Exception) -> KernelError:
    """What to say about a device that cannot go on."""
    known = re.search(r"CUDA_ERROR_\w+", str(error))
    return KernelError(f"{name} failed ({known[0] if known else error}); this session cannot go on")
