"""A model opened on devices: options, planning by capacity, generation."""
