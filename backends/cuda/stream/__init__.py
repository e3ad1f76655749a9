"""Streams: their items as launches and graphs, their memory and times."""
