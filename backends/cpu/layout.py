"""Word layout of step records and of the run block (docs/decisions/0001-program.md)."""

# A step record: 32 int64 words, the kernel's address first.
STEP_WORDS = 32
STEP_BYTES = 8 * STEP_WORDS
STEP_KERNEL, STEP_FLAGS, STEP_ROWS_WORD, STEP_ROWS_TIMES, STEP_NODE, STEP_NUMBER = range(6)
STEP_ARGS = 8
BARRIER_AFTER = 1

# The run block: what changes from run to run.
ABORT, ONE, N_TOKENS, N_OUTPUTS, N_KV, TRACE, N_KV_SWA, TRACE_STRIDE = range(8)
RUN_WORDS = 64
# Where TRACE points, if it is not 0: per item the cycle counter before the kernel, after it, and after the barrier.
# Thread i writes TRACE_STRIDE bytes behind thread i - 1; without a stride only thread 0 writes.
TRACE_WORDS = 3
EXTENT_WORDS = {"n_tokens": N_TOKENS, "n_outputs": N_OUTPUTS, "n_kv": N_KV, "n_kv_swa": N_KV_SWA}
