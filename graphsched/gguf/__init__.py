"""GGUF files: the format, reading, writing."""
