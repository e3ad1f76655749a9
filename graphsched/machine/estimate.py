"""Costs of single decisions on a described machine, by the formulas of its virtual clock."""

from collections.abc import Mapping
from dataclasses import dataclass

from graphsched.graph.cost import cost_of
from graphsched.graph.tensor import Tensor
from graphsched.machine.machine import Device, Machine, Processor, copy_seconds, node_seconds
from graphsched.machine.timeline import simulate
from graphsched.schedule.scheduler import Schedule
from graphsched.types.devices import HOST


@dataclass(frozen=True)
class MachineCosts:
    """Seconds on a described machine."""

    host: Processor
    devices: Mapping[str, Device]

    def compute(self, device: str, node: Tensor, lengths: Mapping[str, int]) -> float:
        """Seconds of a node on a device, its launch included."""
        processor = self.host if device == HOST else self.devices[device].processor
        cost = cost_of(node, lengths)
        # Single tokens are replayed from captured graphs, so their launches cost less.
        launch = processor.graph_us if lengths.get("n_tokens", 1) == 1 else processor.launch_us
        return launch * 1e-6 + node_seconds(processor, cost)

    def copy(self, nbytes: float, source: str, device: str) -> float:
        """Seconds of a copy; between two devices it goes through the host."""
        if source == device:
            return 0.0
        down = copy_seconds(self.devices[source].link, nbytes, "down") if source != HOST else 0.0
        return down + (copy_seconds(self.devices[device].link, nbytes, "up") if device != HOST else 0.0)

    def total(self, schedule: Schedule, lengths: Mapping[str, int]) -> float:
        """Seconds of a schedule on the virtual clock."""
        return simulate(schedule, self.host, self.devices, lengths).wall


def machine_costs(machine: Machine, devices: tuple[str, ...]) -> MachineCosts:
    """The costs on a machine whose devices have these names."""
    return MachineCosts(machine.host, dict(zip(devices, machine.devices, strict=True)))
