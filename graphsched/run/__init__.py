"""Devices, lowering, memory, order, and the run of a plan with its trace."""
