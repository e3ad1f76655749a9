"""Tiny models of every architecture, written when they are first asked for, and what a plain forward pass gives."""
