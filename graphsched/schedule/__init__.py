"""From a graph and the homes of its weights to splits on devices, with a cause for every node."""
