"""Tensors of the op graph (public)."""

from graphsched.graph.tensor import *  # noqa: F403
