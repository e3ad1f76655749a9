"""The CUDA backend on cuda-python: GPUs named CUDA0, CUDA1, ..."""

from graphsched.run.device import Device, Setup


def open_device(name: str, setup: Setup, host: Device) -> Device:
    """A GPU beside the host. OptionError where it cannot be used."""
    from graphsched.backends.cuda import device  # most imports of this package only want to know the reason

    return device.open_device(name, setup, host)
