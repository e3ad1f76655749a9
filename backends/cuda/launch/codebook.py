"""Codebook types (IQ1, IQ2, IQ3) and ternary ones (TQ): on the GPU their weights are codes of a small table."""

# kernel type → (values by code, what the scale is divided by); quants.cuh has the same tables
TABLES = {
    "iq3_s": (range(-15, 16, 2), 1),
    "iq3_xxs": ((-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62), 4),
    "iq2_s": ((-43, -25, -8, 8, 25, 43), 8),
    "iq1_s": ((-9, -7, -1, 1, 7, 9), 8),
}
ONE_SCALE = ("iq3_s", "iq3_xxs")  # both halves of a unit have the same: int8.cuh reads one
KERNEL_TYPE = {"iq2_xxs": "iq2_s", "iq2_xs": "iq2_s", "iq1_m": "iq1_s", "tq1_0": "tq2_0"}
