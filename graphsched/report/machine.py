"""A measured machine as a table."""

from rich.console import Console
from rich.table import Table

from graphsched.machine.machine import Machine

ROWS = (1, 2, 4, 8, 32, 128, 512)


def rendered(machine: Machine) -> None:
    """Prints what products reach, GOP/s by rows, and what all else costs."""
    host = machine.host
    table = Table(title="GOP/s by rows of activations", title_justify="left")
    table.add_column("product")
    for rows in ROWS:
        table.add_column(str(rows), justify="right")
    for name, rates in host.products.items():
        table.add_row(name, *(f"{rates.at(rows) / 1e9:.1f}" for rows in ROWS))
    console = Console(width=None)
    console.print(table)
    speeds = f"memory {host.bandwidth / 1e9:.1f} GB/s, caches {host.near_bandwidth / 1e9:.1f} GB/s"
    console.print(f"{speeds}, a step {host.launch_us:.2f} µs, Python {host.run_us:.0f} µs per run")
