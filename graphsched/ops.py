"""The ops (public)."""

from graphsched.graph.ops import *  # noqa: F403
