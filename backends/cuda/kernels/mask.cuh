// What a token sees: cells of its own sequence up to its own position. `window` (0: none) limits that to the last so
// many positions, `span` (0: none) to the token's own chunk of so many positions. A free cell has sequence -1.
#include "common.cuh"

struct Mask {
  const int2 *where, *cells;  // (sequence, position) of tokens and of cells
  const int* length;          // cells in use
  int window, span;
};
struct Sight {  // of one token
  int sequence, first, last;
};
GS_DEV Sight gs_sight(const Mask& mask, int token) {
  const int2 at = mask.where[token];
  int first = mask.window && at.y >= mask.window ? at.y - mask.window + 1 : 0;
  if (mask.span && at.y / mask.span * mask.span > first) first = at.y / mask.span * mask.span;
  return {at.x, first, at.y};
}
GS_DEV bool gs_sees(const Sight& sight, const int2& cell) {
  return cell.x == sight.sequence && cell.y >= sight.first && cell.y <= sight.last;
}
