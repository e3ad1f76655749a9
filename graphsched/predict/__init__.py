"""Predictions: plans with memory and causes, and their trace on a virtual clock."""
