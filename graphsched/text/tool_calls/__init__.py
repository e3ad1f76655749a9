"""Calls of tools as models write them: how they are read while they are written, and grammars that they follow."""
