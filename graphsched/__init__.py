"""graphsched: a ggml-style computation-graph scheduler in Python."""

__version__ = "0.1.0"
