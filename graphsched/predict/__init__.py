"""Described machines and their virtual clock."""
