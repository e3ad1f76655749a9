"""bitnet-25: another name for the graph of bitnet-b1.58."""

from graphsched.arch import EVERY_SCALE, architecture
from graphsched.blocks import AttentionConfig
from graphsched.models.bitnet_b1_58 import bitnet_b1_58

architecture("bitnet-25", AttentionConfig, scaled=EVERY_SCALE)(bitnet_b1_58)
