"""Rewrites of the op graph: fusions, each a rule with a switch; output rows selected early; attention in parts."""
