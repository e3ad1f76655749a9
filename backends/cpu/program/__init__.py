"""Packed programs: step records, memory, barriers, threads."""
