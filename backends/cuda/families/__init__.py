"""Launches of each family of ops."""
