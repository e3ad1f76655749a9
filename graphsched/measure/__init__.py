"""Measured runs: speed, quality, and where the time went."""
