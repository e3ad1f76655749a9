"""Peak bandwidth and arithmetic rate of devices: measured once on this machine, described for `sim`."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from graphsched import disk_cache
from graphsched.machine.kept import cpu_name
from graphsched.machine.machine import Device, Processor
from graphsched.run.device import device_names
from graphsched.session.options import SessionOptions
from graphsched.session.planner import described_machine
from graphsched.types.devices import HOST

Peaks = Mapping[
    str, Mapping[str, float]
]  # by device: bandwidth, kinds of arithmetic, and of links up and down
KEYS: Final = ("bandwidth", "int8", "f32")


def peaks(options: SessionOptions, refresh: bool = False) -> Peaks:
    """Of each device; of the host, unless it is described, as measured and kept in the cache folder."""
    machine = described_machine(options)
    if machine is None:
        return {HOST: host_peaks(options.threads, refresh) if options.backend == "cpu" else {}}
    names = device_names(options.devices)
    found: dict[str, Mapping[str, float]] = {HOST: _rates(machine.host)}
    for name, device in zip(names, machine.devices, strict=True):
        found |= _of_device(name, device)
    return found


def _of_device(name: str, device: Device) -> dict[str, Mapping[str, float]]:
    up, down = {"bandwidth": device.link.up}, {"bandwidth": device.link.down}
    return {name: _rates(device.processor), f"{name} up": up, f"{name} down": down}


def _rates(processor: Processor) -> dict[str, float]:
    return {"bandwidth": processor.bandwidth, **processor.rates}


def host_peaks(n_threads: int, refresh: bool = False) -> Mapping[str, float]:
    """Of this machine's CPU with so many threads: from the cache folder, else measured, which takes a second."""
    path = disk_cache.folder() / "peaks"
    key = f"{cpu_name()}, {n_threads} threads"
    known = _read(path)
    if refresh or not _is_valid(known.get(key)):
        measured: dict[str, float] = importlib.import_module("graphsched.backends.cpu.peaks").measured_peaks(
            n_threads
        )
        known[key] = measured
        disk_cache.write(path, json.dumps(known).encode())
    peak: Mapping[str, float] = known[key]
    return {**peak, "f16": peak["f32"], "bf16": peak["f32"]}  # which the CPU computes in f32


def _is_valid(peak: Any) -> bool:
    return isinstance(peak, dict) and all(isinstance(peak.get(k), float) and peak[k] > 0 for k in KEYS)


def _read(path: Path) -> dict[str, Any]:
    kept = disk_cache.read(path)
    try:
        found = json.loads(kept or b"")
    except ValueError:  # not there, or not ours: it is measured again
        return {}
    return found if isinstance(found, dict) else {}
