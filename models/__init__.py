"""Architectures, one file each; the file name is the GGUF general.architecture."""

assert __name__ == "graphsched.models", "import graphsched.models, not models"
