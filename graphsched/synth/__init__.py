"""Synthetic models with real shapes."""
