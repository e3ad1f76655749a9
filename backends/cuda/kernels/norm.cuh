// The root mean square of a row. Squares are added in one order, so that every kernel that norms gets the same bits,
// whatever the alignment of the row.
#include "common.cuh"

GS_DEV bool gs_whole(const float* row, int k) { return k % 4 == 0 && (u64)row % 16 == 0; }  // 16-byte loads
GS_DEV float4 gs_four(const float* row, int i, int k, bool whole) {  // from i on, zeros behind the row
  if (whole) return *(const float4*)(row + i);
  return make_float4(row[i], i + 1 < k ? row[i + 1] : 0.0f, i + 2 < k ? row[i + 2] : 0.0f,
                     i + 3 < k ? row[i + 3] : 0.0f);
}
// The row to norm: x, or with r the residual stream z = x + r, which is stored (r and z dense; z may be x). Every
// thread of the block has to call this
GS_DEV const float* gs_stream(const float* x, const float* r, float* z, int k, i64 x_stride) {
  x += blockIdx.x * x_stride;
  if (!r) return x;
  r += (i64)blockIdx.x * k, z += (i64)blockIdx.x * k;
  for (int i = threadIdx.x; i < k; i += blockDim.x) z[i] = x[i] + r[i];
  gs_sync();  // other threads read it
  return z;
}
// 1 / sqrt(mean(x^2) + eps); the block has ceil(k / 4) threads in whole warps, at most 1024
GS_DEV float gs_rms(const float* row, int k, float eps) {
  const bool whole = gs_whole(row, k);
  float sum = 0.0f;
  for (int i = threadIdx.x * 4; i < k; i += blockDim.x * 4) {
    const float4 v = gs_four(row, i, k, whole);
    sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
  }
  return 1.0f / sqrtf(gs_block_sum(sum) / (float)k + eps);
}
// values i .. i + 3 of the row, normed and weighted
GS_DEV float4 gs_normed(const float* row, const float* w, int i, int k, bool whole, float scale) {
  const float4 a = gs_four(row, i, k, whole), b = *(const float4*)(w + i);
  return make_float4(a.x * scale * b.x, a.y * scale * b.y, a.z * scale * b.z, a.w * scale * b.w);
}
