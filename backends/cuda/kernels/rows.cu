// Reductions of rows, one warp per row: softmax, sum, the k largest. Rows are dense, n floats each. Blocks of 4 warps,
// grid (ceil(rows / 4)).
#include "topk.cuh"

GS_DEV i64 gs_row_of_warp() {
  gs_pdl_launch();
  gs_pdl_wait();
  return (i64)blockIdx.x * 4 + threadIdx.x / 32;
}

extern "C" __global__ void __launch_bounds__(128) soft_max(const float* x, float* y, int rows, int n, float scale) {
  const i64 row = gs_row_of_warp();
  if (row >= rows) return;
  const int lane = threadIdx.x % 32;
  float top = -3.0e38f, sum = 0.0f;
  for (int i = lane; i < n; i += 32) top = fmaxf(top, x[row * n + i] * scale);
  top = gs_warp_max(top);
  for (int i = lane; i < n; i += 32) sum += expf(x[row * n + i] * scale - top);
  sum = gs_warp_sum(sum);
  for (int i = lane; i < n; i += 32) y[row * n + i] = expf(x[row * n + i] * scale - top) / sum;
}
extern "C" __global__ void __launch_bounds__(128) sum_rows(const float* x, float* y, int rows, int n) {
  const i64 row = gs_row_of_warp();
  if (row >= rows) return;
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < n; i += 32) sum += x[row * n + i];
  sum = gs_warp_sum(sum);
  if (threadIdx.x % 32 == 0) y[row] = sum;
}

// Indices of the k largest, largest first. With groups (at most 32): only those of the `kept` best groups, which score
// the sum of their two largest.
extern "C" __global__ void __launch_bounds__(128)
    top_k(const float* x, int* ids, int rows, int n, int k, int groups, int kept) {
  const i64 row = gs_row_of_warp();
  if (row >= rows) return;
  const int lane = threadIdx.x % 32, size = groups ? n / groups : n;
  const u32 open = groups ? gs_best_groups(x + row * n, groups, size, kept) : ~0u;
  float v[GS_TOP_MOST / 32];
#pragma unroll
  for (int i = 0; i < GS_TOP_MOST / 32; i++) {
    const int at = i * 32 + lane;
    v[i] = at < n && (!groups || open >> at / size & 1) ? x[row * n + at] : GS_NONE;
  }
  for (int j = 0; j < k; j++) {
    const int at = gs_take_best(v);
    if (lane == 0) ids[row * k + j] = at;
  }
}
