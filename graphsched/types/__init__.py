"""Element types: their names, sizes and layouts."""
