"""Quantisation of model files: mixes, importance matrices, types by tensor."""
