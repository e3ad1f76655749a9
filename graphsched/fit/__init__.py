"""`--fit`: where a model should live to be fast, found by an exact solver and judged on the virtual clock."""
