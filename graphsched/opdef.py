"""How an op is declared (public)."""

from graphsched.graph.opdef import *  # noqa: F403
