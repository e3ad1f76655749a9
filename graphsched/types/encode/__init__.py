"""Encoders of the types whose scales are searched."""
