"""The memory of a session's host and devices: described, or as the system tells it."""

from collections.abc import Mapping

from graphsched.machine.machine import Machine
from graphsched.run.device import gpus, is_gpu
from graphsched.session.options import physical_memory
from graphsched.types.devices import HOST


def capacities(machine: Machine | None, devices: tuple[str, ...]) -> Mapping[str, int]:
    """Bytes that the host and each device have for a session, by name; what nobody tells is left out.

    machine: the described one, whose devices are the `devices`, if there is one. Of a GPU its free memory counts.
    """
    if machine is not None:
        sizes = {name: d.processor.memory_bytes for name, d in zip(devices, machine.devices, strict=True)}
        return {**sizes, HOST: machine.host.memory_bytes}
    free = {gpu.name: gpu.free for gpu in gpus()} if any(map(is_gpu, devices)) else {}
    return {name: free[name] for name in devices if name in free} | {HOST: physical_memory()}


def shares(capacities: Mapping[str, int], devices: tuple[str, ...]) -> tuple[float, ...]:
    """The shares of layers that devices get by default: their memory in GB; () for equal ones if one is not known."""
    known = tuple(capacities[name] / 1e9 for name in devices if name in capacities)
    return known if len(known) == len(devices) and len(set(known)) > 1 else ()
