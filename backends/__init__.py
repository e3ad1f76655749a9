"""Backends, found by name: cpu, reference, cuda."""

assert __name__ == "graphsched.backends", "import graphsched.backends, not backends"
