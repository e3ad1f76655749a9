"""The op graph: tensors, op declarations, labels, costs and rewrites."""
