"""What is known of the GPUs here, and of the software that runs on them."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from graphsched.backends.cuda import driver
from graphsched.run.device import GpuFacts

PCI = Path("/sys/bus/pci/devices")
PACKAGES = ("cuda-core", "cuda-bindings")


def gpus() -> list[GpuFacts]:
    """Every GPU, in the driver's order; only after `driver.probe` has found no reason against it."""
    return [_facts(i) for i in range(driver.device_count())]


def _facts(ordinal: int) -> GpuFacts:
    gpu = driver.open_gpu(ordinal)
    free, total = driver.free_memory()
    bus, engines = driver.pci_bus(gpu), driver.copy_engines(gpu)
    sms = gpu.multiprocessors
    return GpuFacts(f"CUDA{ordinal}", gpu.name, total, free, gpu.arch, sms, engines, bus, _link(bus))


def _link(bus: str) -> str:
    """Speed and width of a PCI link as the system tells them."""
    try:
        speed, width = (
            (PCI / bus.lower() / f"current_link_{what}").read_text().strip() for what in ("speed", "width")
        )
    except OSError:
        return ""
    return f"{speed} x{width}"


def versions() -> dict[str, str]:
    """Driver (the newest CUDA it knows), NVRTC and packages; what is not there is left out."""
    installed = dict[str, str]()
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    if driver.probe() is None:
        installed = {"driver": driver.driver_version(), "NVRTC": driver.nvrtc_version()} | installed
        if cublas := driver.cublas_version():
            installed["cuBLASLt"] = cublas
    return installed
