"""What a launch is made of: its arguments, the operands of nodes, layouts of weights, compiled kernels."""
