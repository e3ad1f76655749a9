"""Tokenizers, chat templates, sampling."""
