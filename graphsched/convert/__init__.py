"""Checkpoints of other programs to GGUF."""
