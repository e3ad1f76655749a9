// y[t, row] = sum_k w[row, k] * x[t, k] for 1 to 8 tokens: the weights are read once, 16 bytes per lane, and several
// such loads are in flight before the first is used. A warp takes R rows (activations are loaded once for them) and,
// where `split` > 1 (split-K), only every split-th step of K; the block adds the slices up in a fixed order.
#include "quants.cuh"

#ifndef GS_ROWS  // rows a warp takes for one token, and loads of each in flight
#define GS_ROWS 2
#define GS_UNROLL 2
#endif

struct Act8 {  // one unit of quantised activations; s = d * sum(q)
  u32 q[8];
  float d, s;
};
GS_DEV Act8 gs_act8(const i8* q8, const float2* ds, i64 unit) {
  const uint4 lo = *(const uint4*)(q8 + unit * 32), hi = *(const uint4*)(q8 + unit * 32 + 16);
  const float2 s = ds[unit];
  return {{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}, s.x, s.y};
}
GS_DEV void gs_half_sums(const Act8& a, int (&sums)[2]) {
  sums[0] = sums[1] = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) sums[i / 4] = gs_dp4a(0x01010101u, a.q[i], sums[i / 4]);
}
// ZERO: what is still to be taken off the weights
template <class T, int ZERO> GS_DEV float gs_dot(const Unit& w, const Act8& a) {
  int sum[2] = {0, 0}, ones[2];
  if (ZERO || T::MIN == 2) gs_half_sums(a, ones);  // the same for all rows of a warp
  if (ZERO) sum[0] = -ZERO * ones[0], sum[1] = -ZERO * ones[1];
#pragma unroll
  for (int i = 0; i < 8; i++) sum[T::HALVES ? i / 4 : 0] = gs_dp4a(w.v[i], a.q[i], sum[T::HALVES ? i / 4 : 0]);
  float y = w.d[0] * (float)sum[0];
  if (T::HALVES) y = fmaf(w.d[1], (float)sum[1], y);
  if (T::MIN == 2) y = fmaf(w.m[0], (float)ones[0], fmaf(w.m[1], (float)ones[1], y));
  y *= a.d;
  return T::MIN == 1 ? fmaf(w.m[0], a.s, y) : y;
}

// quantised weights × quantised activations: `steps` of N units, this lane's from `first` on, `stride` apart
template <class T, int NT, int R, int U>
GS_DEV void gs_accumulate(float (&acc)[NT][R], const Row (&row)[R], const i8* q8, const float2* ds, int tokens,
                          int units, int first, int stride, int gap) {  // gap: units from token to token
  // the zero point is subtracted from sums for few tokens (a sum per token), else from the weights (once for all)
  constexpr int ZERO = NT > 2 ? 0 : gs_codes<T>::ZERO;
  const int steps = units / T::N;
  for (int s0 = first; s0 < steps; s0 += stride * U) {
    typename T::Raw raw[U][R];
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
      for (int r = 0; r < R; r++)
        if (s0 + u * stride < steps) raw[u][r] = gs_step<T>(row[r], s0 + u * stride);
#pragma unroll
    for (int u = 0; u < U; u++) {
      const int s = s0 + u * stride;
      if (s >= steps) break;
#pragma unroll (NT == 8 ? 1 : T::N)  // two units of 8 tokens at once would spill registers
      for (int n = 0; n < T::N; n++) {
        Unit w[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
          if constexpr (ZERO != 0) gs_codes<T>::unpack(raw[u][r], n, s, w[r]);
          else T::unpack(raw[u][r], n, s, w[r]);
        }
#pragma unroll
        for (int t = 0; t < NT; t++) {
          const Act8 a = gs_act8(q8, ds, (i64)gs_min(t, tokens - 1) * gap + s * T::N + n);
#pragma unroll
          for (int r = 0; r < R; r++) acc[t][r] += gs_dot<T, ZERO>(w[r], a);
        }
      }
    }
  }
}

// sums of a warp group's lanes and slices of K; lane 0 of slice 0 has the result in acc
template <int NT, int R> GS_DEV void gs_reduce(float (&acc)[NT][R], int split) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < NT; t++)
#pragma unroll
    for (int r = 0; r < R; r++) acc[t][r] = gs_warp_sum(acc[t][r]);
  if (split == 1) return;
  GS_SHARED(float, partials, 32 * NT * R);
  if (lane == 0)
#pragma unroll
    for (int i = 0; i < NT * R; i++) partials[warp * NT * R + i] = acc[i / R][i % R];
  gs_sync();
  if (warp % split == 0 && lane == 0)
    for (int p = 1; p < split; p++)
#pragma unroll
      for (int i = 0; i < NT * R; i++) acc[i / R][i % R] += partials[(warp + p) * NT * R + i];
}

// one warp's place: which rows, which slice of K
struct Place {
  int row, slice, lane;
};
template <int R> GS_DEV Place gs_place(int split, int block) {
  const int warp = threadIdx.x / 32, groups = blockDim.x / 32 / split;
  return {(block * groups + warp / split) * R, warp % split, (int)(threadIdx.x % 32)};
}
template <int R> GS_DEV Place gs_place(int split) { return gs_place<R>(split, blockIdx.x); }
template <int NT, int R>
GS_DEV void gs_store(float (&acc)[NT][R], const Place& at, float* y, int tokens, int rows, int stride) {
  if (at.slice || at.lane) return;
#pragma unroll
  for (int t = 0; t < NT; t++)
#pragma unroll
    for (int r = 0; r < R; r++)
      if (t < tokens && at.row + r < rows) y[(i64)t * stride + at.row + r] = acc[t][r];
}

// Which rows of which matrices: rows from `first` on of a matrix of `total`. blockIdx.y selects one of several
// matrices, which are `w` bytes apart, whose inputs are side by side in x (`across` of them) and whose outputs are `y`
// floats apart. blockIdx.z selects the group of NT tokens
struct Matrices {
  int total, first, across;
  i64 w, y;
};
template <class T, int NT, int R, int U>
GS_DEV void gs_matvec(const u8* w, const i8* q8, const float2* ds, float* y, int tokens, int rows, int k, int y_stride,
                      int split, const Matrices& m) {
  const Place at = gs_place<R>(split);
  const int units = k / 32;
  Row row[R];
#pragma unroll
  for (int r = 0; r < R; r++)
    row[r] = gs_row<T>(w + blockIdx.y * m.w, m.total, units, m.first + gs_min(at.row + r, rows - 1));
  const int bytes = units * T::Q;  // the first lines of the rows are on their way while the kernel before still runs
#pragma unroll
  for (int r = 0; r < R; r++)
    if ((at.slice * 32 + at.lane) * 128 < bytes) gs_prefetch_l2(row[r].q + (at.slice * 32 + at.lane) * 128);
  gs_pdl_launch();
  gs_pdl_wait();
  const int t0 = blockIdx.z * NT, left = gs_min(NT, tokens - t0);
  const i64 from = (i64)t0 * m.across + blockIdx.y;
  float acc[NT][R] = {};
  gs_accumulate<T, NT, R, U>(acc, row, q8 + from * k, ds + from * units, left, units, at.slice * 32 + at.lane,
                             32 * split, m.across * units);
  gs_reduce<NT, R>(acc, split);
  gs_store<NT, R>(acc, at, y + (i64)t0 * y_stride + blockIdx.y * m.y, left, rows, y_stride);
}

// One token and up to three matrices in one launch; unused ones have no rows. A block works on one matrix, and each
// matrix has the `split` of a launch of its own, so that the bits are the same. Grid (blocks of all matrices)
struct Share {
  const u8* w;
  float* y;
  int rows, split;
  __device__ __forceinline__ int blocks(int per_warp) const {
    return gs_ceil_div(rows, (int)blockDim.x / 32 / split * per_warp);
  }
};
// the matrix that `block` works on; `block` becomes its number within that matrix
GS_DEV Share gs_share(const Share (&all)[3], int per_warp, int& block) {
  const int first = all[0].blocks(per_warp), second = first + all[1].blocks(per_warp);
  const Share s = block < first ? all[0] : block < second ? all[1] : all[2];
  block -= block < first ? 0 : block < second ? first : second;
  return s;
}
template <class T, int R, int U>
GS_DEV void gs_matvec_fused(const Share (&all)[3], const i8* q8, const float2* ds, int k) {
  int block = blockIdx.x;
  const Share s = gs_share(all, R, block);
  const Place at = gs_place<R>(s.split, block);
  const int units = k / 32, bytes = units * T::Q;
  Row row[R];
#pragma unroll
  for (int r = 0; r < R; r++) row[r] = gs_row<T>(s.w, s.rows, units, gs_min(at.row + r, s.rows - 1));
#pragma unroll
  for (int r = 0; r < R; r++)
    if ((at.slice * 32 + at.lane) * 128 < bytes) gs_prefetch_l2(row[r].q + (at.slice * 32 + at.lane) * 128);
  gs_pdl_launch();
  gs_pdl_wait();
  float acc[1][R] = {};
  gs_accumulate<T, 1, R, U>(acc, row, q8, ds, 1, units, at.slice * 32 + at.lane, 32 * s.split, units);
  gs_reduce<1, R>(acc, s.split);
  gs_store<1, R>(acc, at, s.y, 1, s.rows, 0);
}
