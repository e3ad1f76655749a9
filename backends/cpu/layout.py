"""Word layout of step records and of the run block (docs/decisions/0001-program.md)."""

# A step record: 32 int64 words, the kernel's address first.
STEP_WORDS = 32
STEP_BYTES = 8 * STEP_WORDS
STEP_KERNEL, STEP_FLAGS, STEP_ROWS_WORD, STEP_ROWS_TIMES, STEP_NODE = range(5)
STEP_ARGS = 8
BARRIER_AFTER = 1

# The run block: what changes from run to run.
ABORT, ONE, N_TOKENS, N_OUTPUTS, N_KV = range(5)
RUN_WORDS = 64
EXTENT_WORDS = {"n_tokens": N_TOKENS, "n_outputs": N_OUTPUTS, "n_kv": N_KV}
