"""Blocks of architecture files (public)."""

from graphsched.arch.blocks import *  # noqa: F403
