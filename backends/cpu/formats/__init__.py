"""Tensor types in registers: decoding and encoding of blocks."""
