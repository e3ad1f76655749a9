"""Names of devices."""

import re
from collections.abc import Iterable
from typing import Final

HOST: Final = "CPU"  # the device that is always there, last in priority, and owns what no other device holds
_GPU: Final = re.compile(r"(?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL|CANN)(\d{1,3})", re.IGNORECASE)


def gpu_number(name: str) -> int | None:
    """The number of a GPU as command lines name it, 1 of CUDA1; None for another name."""
    found = _GPU.fullmatch(name.strip())
    return int(found[1]) if found else None


def meant(name: str, devices: Iterable[str]) -> str | None:
    """The device beside the host, or the host itself, that a name means on a command line; None if there is none.

    CUDA1 is the second simulated device, too. Without any device it is the host, where then everything is.
    """
    known = {device.lower(): device for device in (HOST, *devices)}
    if (name := name.strip().lower()) in known or (number := gpu_number(name)) is None:
        return known.get(name)
    return HOST if len(known) == 1 else known.get(f"sim{number}", known.get(f"cuda{number}"))
