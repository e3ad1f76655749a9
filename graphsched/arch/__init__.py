"""What architecture files are written with (public)."""

from graphsched.arch.registry import *  # noqa: F403
