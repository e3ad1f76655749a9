"""Ops with recurrent state: short convolution, gated delta rule, selective scan."""
