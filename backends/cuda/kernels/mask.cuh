// What a token sees: its own sequence up to its own position. `window` (0: none) limits that to the last so many
// positions, `span` (0: none) to the token's own chunk of so many positions. Cells of a cache come in blocks; position p
// of a sequence is in cell table[p / GS_CELL_BLOCK] * GS_CELL_BLOCK + p % GS_CELL_BLOCK of its own table.
#include "common.cuh"

enum { GS_CELL_BLOCK = 32 };

struct Mask {
  const int* where;  // of each token: slot of its sequence, position, first entry of its sequence's table
  int window, span;
  float max_bias;  // of ALiBi, 0: none
};
struct Sight {  // of one token
  int slot, first, last, entry;
};
GS_DEV Sight gs_sight(const Mask& mask, int token) {
  const int *at = mask.where + 3 * token, p = at[1];
  int first = mask.window && p >= mask.window ? p - mask.window + 1 : 0;
  if (mask.span && p / mask.span * mask.span > first) first = p / mask.span * mask.span;
  return {at[0], first, p, at[2]};
}
// ALiBi's slope of a head: what a score loses for each position back
GS_DEV float gs_slope(float max_bias, int head, int heads) {
  int n = 1;
  while (2 * n <= heads) n *= 2;
  return exp2f(-max_bias * (head < n ? head + 1.0f : head - n + 0.5f) / n);
}
GS_DEV bool gs_sees(const Sight& sight, int position) { return position >= sight.first && position <= sight.last; }
GS_DEV int gs_block_of(int position) { return (int)((u32)position / GS_CELL_BLOCK); }
GS_DEV int gs_cell(int block, int position) { return block * GS_CELL_BLOCK + (int)((u32)position % GS_CELL_BLOCK); }
