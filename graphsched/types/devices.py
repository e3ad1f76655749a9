"""Names of devices."""

from typing import Final

HOST: Final = "CPU"  # the device that is always there, last in priority, and owns what no other device holds
