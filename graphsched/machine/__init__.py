"""Described machines: what they are, what a node costs on them, and their virtual clock."""
