"""The numbers of ops, by which `-op` and reports name them."""

from enum import IntEnum


class Op(IntEnum):
    """Numbers that `-op` takes: the list of ik_llama.cpp's PR 405 below 81, our own from 128 up. They never move."""

    NONE = 0
    DUP = 1
    ADD = 2
    ADD1 = 3
    ACC = 4
    SUB = 5
    MUL = 6
    DIV = 7
    SQR = 8
    SQRT = 9
    LOG = 10
    SUM = 11
    SUM_ROWS = 12
    MEAN = 13
    ARGMAX = 14
    REPEAT = 15
    REPEAT_BACK = 16
    CONCAT = 17
    SILU_BACK = 18
    NORM = 19
    RMS_NORM = 20
    RMS_NORM_BACK = 21
    GROUP_NORM = 22
    FUSED_RMS_NORM = 23
    FUSED_MUL_UNARY = 24
    MULTI_ADD = 25
    MUL_MAT = 26
    MUL_MAT_ID = 27
    OUT_PROD = 28
    MOE_FUSED_UP_GATE = 29
    SCALE = 30
    SET = 31
    CPY = 32
    CONT = 33
    RESHAPE = 34
    VIEW = 35
    PERMUTE = 36
    TRANSPOSE = 37
    GET_ROWS = 38
    GET_ROWS_BACK = 39
    DIAG = 40
    DIAG_MASK_INF = 41
    DIAG_MASK_ZERO = 42
    SOFT_MAX = 43
    SOFT_MAX_BACK = 44
    ROPE = 45
    ROPE_BACK = 46
    CLAMP = 47
    CONV_TRANSPOSE_1D = 48
    IM2COL = 49
    CONV_TRANSPOSE_2D = 50
    POOL_1D = 51
    POOL_2D = 52
    UPSCALE = 53
    PAD = 54
    ARANGE = 55
    TIMESTEP_EMBEDDING = 56
    ARGSORT = 57
    ARGSORT_THRESH = 58
    LEAKY_RELU = 59
    SOFTCAP = 60
    SOFT_CAP_MAX = 61
    FLASH_ATTN_EXT = 62
    FLASH_ATTN_BACK = 63
    SSM_CONV = 64
    SSM_SCAN = 65
    WIN_PART = 66
    WIN_UNPART = 67
    GET_REL_POS = 68
    ADD_REL_POS = 69
    UNARY = 70
    MAP_UNARY = 71
    MAP_BINARY = 72
    MAP_CUSTOM1_F32 = 73
    MAP_CUSTOM2_F32 = 74
    MAP_CUSTOM3_F32 = 75
    MAP_CUSTOM1 = 76
    MAP_CUSTOM2 = 77
    MAP_CUSTOM3 = 78
    CROSS_ENTROPY_LOSS = 79
    CROSS_ENTROPY_LOSS_BACK = 80
    # Ops the list lacks.
    SET_ROWS = 128
    ADD_ID = 129
    GROUPED_TOPK = 130
    TEMPERATURE_SCALE = 131
    SWIGLU_OAI = 132
    PART = 133
    FUSED_ADD_RMS_NORM = 134
    FUSED_ROPE = 135
    MUL_MAT_QKV = 136
    TOPK_MOE = 137
    MUL_MAT_UP_GATE = 138
    MUL_MULTI_ADD = 139
    FUSED_SET_ROWS = 140
    GATED_DELTA_NET = 141
    L2_NORM = 142
    COPY_ROWS = 143
    FUSED_NORM = 144
    XIELU = 145
    LIGHTNING_INDEXER = 146
    SPARSE_ATTN = 147
    COMPRESSED_ATTN = 148
    POOL_ROWS = 149
    HC_WEIGHTS = 150


FIRST_USER_OP = 1000  # numbers from here up belong to other packages


class UserOp(int):
    """The number of an op that another package declares; `name` is the function's in capitals, as `Op` has it."""

    name: str

    def __new__(cls, number: int, name: str) -> "UserOp":
        self = super().__new__(cls, number)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # int's own takes the value only
        return int(self), self.name


AnyOp = Op | UserOp
