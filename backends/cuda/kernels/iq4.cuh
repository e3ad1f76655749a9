// The 16 values that 4-bit codes of IQ4 stand for, -127 to 113, and how they are looked up.
#include "common.cuh"

#define GS_IQ4_VALUES {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535}

// 4 nibbles → 4 bytes of a table of 16: `index` has the low three bits of each nibble, `pick` its top bit
GS_DEV u32 gs_lookup4(u32 index, u32 pick, const u32 (&table)[4]) {
  return gs_prmt(gs_prmt(table[0], table[1], index), gs_prmt(table[2], table[3], index), pick);
}
// the value of one code
GS_DEV int gs_iq4(int code) {
  return (i8)((code < 8 ? 0xf6eaddcfbfad9881ull : 0x7159453526190d01ull) >> (code % 8 * 8));
}
// 4 codes in bytes → their values in bytes
GS_DEV u32 gs_iq4_bytes(u32 codes) {
  const u32 table[4] = GS_IQ4_VALUES, pairs = (codes | codes >> 4) & 0x00ff00ff, four = pairs | pairs >> 8;
  return gs_lookup4(four & 0x7777, (four >> 1 & 0x4444) | 0x3210, table);
}
// the code whose value is nearest to x: how many of the middles between values x reaches
GS_DEV int gs_nearest_iq4(float x) {
  int code = 0;
#pragma unroll
  for (int i = 0; i < 15; i++) code += x >= (float)(gs_iq4(i) + gs_iq4(i + 1)) * 0.5f;
  return code;
}
