"""Described machines: their description, costs of nodes, and a virtual clock."""
