// The largest of a row of at most 512 numbers, by one warp: lane l holds elements i * 32 + l. Of equal ones the lower
// index.
#include "common.cuh"

enum { GS_TOP_MOST = 512 };
#define GS_NONE -3.0e38f  // less than what is compared

struct Best {
  float value;
  int at;
};
GS_DEV Best gs_best_of_warp(Best b) {
#pragma unroll
  for (int m = 16; m > 0; m /= 2) {
    const float other = gs_shfl_xor(b.value, m);
    const int from = gs_shfl_xor(b.at, m);
    if (other > b.value || (other == b.value && from < b.at)) b = {other, from};
  }
  return b;
}
// the index of the largest, which is GS_NONE from then on
GS_DEV int gs_take_best(float (&v)[GS_TOP_MOST / 32]) {
  const int lane = threadIdx.x % 32;
  Best b = {GS_NONE, 1 << 20};
#pragma unroll
  for (int i = 0; i < GS_TOP_MOST / 32; i++)
    if (v[i] > b.value) b = {v[i], i * 32 + lane};
  b = gs_best_of_warp(b);
#pragma unroll
  for (int i = 0; i < GS_TOP_MOST / 32; i++)
    if (i * 32 + lane == b.at) v[i] = GS_NONE;
  return b.at;
}
// a bit for each of the `kept` best of at most 32 groups of `size`, which score the sum of their two largest
GS_DEV u32 gs_best_groups(const float* row, int groups, int size, int kept) {
  const int lane = threadIdx.x % 32;
  float first = GS_NONE, second = GS_NONE;
  for (int i = 0; i < size && lane < groups; i++) {
    const float v = row[lane * size + i];
    if (v > first) second = first, first = v;
    else if (v > second) second = v;
  }
  float score = lane >= groups ? GS_NONE : size > 1 ? first + second : first;
  u32 open = 0;
  for (int j = 0; j < kept; j++) {
    const Best b = gs_best_of_warp({score, lane});
    open |= 1u << b.at;
    if (lane == b.at) score = GS_NONE;
  }
  return open;
}
