"""bitnet-25: another name for the graph of bitnet-b1.58."""

from graphsched.arch import architecture
from graphsched.blocks import AttentionConfig
from graphsched.models.bitnet_b1_58 import bitnet_b1_58

architecture("bitnet-25", AttentionConfig)(bitnet_b1_58)
