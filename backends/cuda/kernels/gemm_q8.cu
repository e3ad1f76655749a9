// y[m, n] = sum_k x[m, k] * w[n, k] with x quantised to int8 (quantize.cu) and w decoded to int8 on the way into shared
// memory: the exact integer sums of each unit of 32, times the two scales, plus minimum times activation sum. So a
// token's result is that of the mat-vec but for the order in which units are added.
// A block of 8 warps makes 128 × 128; each slice is four units: x by cp.async, w by one decode a thread into registers
// while the slice before is multiplied. Where the halves of a unit have scales of their own (HALVES), each half is a
// product of its own; with minima too (Q2_K) they are not for this kernel.
#include "quants.cuh"

enum { GS_BM = 128, GS_BN = 128, GS_UNITS = 4, GS_ROW = GS_UNITS * 32, GS_THREADS = 256 };
struct Tile {  // one slice; scales per row and unit
  u8 x[GS_BM * GS_ROW], w[GS_BN * GS_ROW];
  float2 xs[GS_UNITS * GS_BM], ws[GS_UNITS * GS_BN];
};
GS_DEV u8* gs_piece(u8* tile, int row, int piece) { return tile + row * GS_ROW + (piece ^ row % 8) * 16; }

// which row of x a row of the product reads, and which of y it writes
struct Dense {
  int m;
  __device__ __forceinline__ int x(int r) const { return r; }
  __device__ __forceinline__ int y(int r) const { return r; }
};
struct Grouped {  // slots of one expert; x has a row per slot or one per token
  const int* slots;
  int m, per_token;
  __device__ __forceinline__ int x(int r) const { return slots[r] / per_token; }
  __device__ __forceinline__ int y(int r) const { return slots[r]; }
};

template <class Rows> GS_DEV void gs_load_x(Tile& t, const i8* q8, const float2* ds, const Rows& rows, int m0, int unit0, int units) {
#pragma unroll
  for (int i = 0; i < GS_BM * 8 / GS_THREADS; i++) {
    const int at = i * GS_THREADS + threadIdx.x, r = at / 8, c = at % 8;
    const bool valid = m0 + r < rows.m && unit0 + c / 2 < units;
    gs_copy16(gs_piece(t.x, r, c), valid ? q8 + ((i64)rows.x(m0 + r) * units + unit0) * 32 + c * 16 : q8, valid);
  }
#pragma unroll
  for (int i = 0; i < GS_BM * GS_UNITS / GS_THREADS; i++) {
    const int at = i * GS_THREADS + threadIdx.x, r = at % GS_BM, u = at / GS_BM;
    const bool valid = m0 + r < rows.m && unit0 + u < units;
    t.xs[u * GS_BM + r] = valid ? ds[(i64)rows.x(m0 + r) * units + unit0 + u] : make_float2(0.0f, 0.0f);
  }
}
// 128 rows × 4 units by 256 threads: two units each, in steps of N
template <class T> struct Weights {
  static const int STEPS = 2 / T::N;
  typename T::Raw raw[STEPS];
  __device__ __forceinline__ static int row(int i) { return (i * GS_THREADS + threadIdx.x) / (GS_UNITS / T::N); }
  __device__ __forceinline__ static int step(int i) { return (i * GS_THREADS + threadIdx.x) % (GS_UNITS / T::N); }
  __device__ __forceinline__ void load(const u8* w, int n0, int n, int unit0, int units, int total, int first) {
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      const int s = gs_min(unit0 / T::N + step(i), units / T::N - 1);  // past the end: x is zero there
      raw[i] = T::load(gs_row<T>(w, total, units, first + gs_min(n0 + row(i), n - 1)), s);
    }
  }
  __device__ __forceinline__ void store(Tile& t, int unit0, int units) const {
#pragma unroll
    for (int i = 0; i < STEPS; i++)
#pragma unroll
      for (int k = 0; k < T::N; k++) {
        Unit u;
        T::unpack(raw[i], k, gs_min(unit0 / T::N + step(i), units / T::N - 1), u);
        const int local = step(i) * T::N + k;
        *(uint4*)gs_piece(t.w, row(i), local * 2) = make_uint4(u.v[0], u.v[1], u.v[2], u.v[3]);
        *(uint4*)gs_piece(t.w, row(i), local * 2 + 1) = make_uint4(u.v[4], u.v[5], u.v[6], u.v[7]);
        t.ws[local * GS_BN + row(i)] = make_float2(u.d[0], T::HALVES ? u.d[1] : T::MIN ? u.m[0] : 0.0f);
      }
  }
};

// one warp's 64 × 32 of a slice
template <class T> GS_DEV void gs_multiply(float (&acc)[4][4][4], Tile& t, int row0, int col0) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1  // unrolled, the fragments of all four units take every register
  for (int u = 0; u < GS_UNITS; u++) {
    u32 b[2][4];
    float2 ws[4][2];
#pragma unroll
    for (int j = 0; j < 2; j++)
      gs_ldmatrix4(b[j], gs_piece(t.w, col0 + j * 16 + lane % 8 + lane / 16 * 8, u * 2 + lane / 8 % 2));
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float4 two = *(const float4*)&t.ws[u * GS_BN + col0 + j * 8 + lane % 4 * 2];
      ws[j][0] = make_float2(two.x, two.y), ws[j][1] = make_float2(two.z, two.w);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32 a[4];
      gs_ldmatrix4(a, gs_piece(t.x, row0 + i * 16 + lane % 16, u * 2 + lane / 16));
      const float2 lo = t.xs[u * GS_BM + row0 + i * 16 + lane / 4], hi = t.xs[u * GS_BM + row0 + i * 16 + lane / 4 + 8];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const u32 b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
        int sum[4] = {0, 0, 0, 0}, second[4] = {0, 0, 0, 0};
        if (T::HALVES) gs_mma_int8_k16(sum, a[0], a[1], b0), gs_mma_int8_k16(second, a[2], a[3], b1);
        else gs_mma_int8(sum, a, b0, b1);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float2 x = e < 2 ? lo : hi, w = ws[j][e % 2];
          acc[i][j][e] = fmaf((float)sum[e], x.x * w.x, acc[i][j][e]);
          if (T::HALVES) acc[i][j][e] = fmaf((float)second[e], x.x * w.y, acc[i][j][e]);
          else if (T::MIN) acc[i][j][e] = fmaf(x.y, w.y, acc[i][j][e]);
        }
      }
    }
  }
}

// rows first .. first + n of a matrix of `total`; grid (ceil(m / 128), ceil(n / 128)); dynamic shared memory 2 * sizeof(Tile) = 81920 bytes
template <class T, class Rows>
GS_DEV void gs_gemm(const u8* w, const i8* q8, const float2* ds, float* y, const Rows& rows, int n, int k, int total, int first) {
  GS_DYNAMIC(Tile, tiles);
  const int m0 = blockIdx.x * GS_BM, n0 = blockIdx.y * GS_BN, units = k / 32, warp = threadIdx.x / 32;
  const int row0 = warp / 4 * 64, col0 = warp % 4 * 32, lane = threadIdx.x % 32;
  float acc[4][4][4] = {};
  Weights<T> next;
  next.load(w, n0, n, 0, units, total, first);
  gs_load_x(tiles[0], q8, ds, rows, m0, 0, units);
  gs_copy_commit();
  next.store(tiles[0], 0, units);
  for (int u = 0, now = 0; u < units; u += GS_UNITS, now ^= 1) {
    gs_copy_wait<0>();
    gs_sync();  // this slice is complete, and the other tile is read no more
    const int ahead = u + GS_UNITS;
    if (ahead < units) {
      next.load(w, n0, n, ahead, units, total, first);
      gs_load_x(tiles[now ^ 1], q8, ds, rows, m0, ahead, units);
    }
    gs_copy_commit();
    gs_multiply<T>(acc, tiles[now], row0, col0);
    if (ahead < units) next.store(tiles[now ^ 1], ahead, units);
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = m0 + row0 + i * 16 + lane / 4 + e / 2 * 8, col = n0 + col0 + j * 8 + lane % 4 * 2 + e % 2;
        if (row < rows.m && col < n) y[(i64)rows.y(row) * n + col] = acc[i][j][e];
      }
}

GS_DEV void gs_zeros(float* y, const Grouped& rows, int n) {
  const int m0 = blockIdx.x * GS_BM, n0 = blockIdx.y * GS_BN;
  for (int i = threadIdx.x; i < GS_BM * GS_BN; i += GS_THREADS) {
    const int row = m0 + i / GS_BN, col = n0 + i % GS_BN;
    if (row < rows.m && col < n) y[(i64)rows.y(row) * n + col] = 0.0f;
  }
}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_q8_TYPE(const u8* w, const i8* q8, const float2* ds, float* y, int m, int n, int k, int total, int first) {
  gs_pdl_launch();
  gs_pdl_wait();
  gs_gemm<TYPE>(w, q8, ds, y, Dense{m}, n, k, total, first);
}
// y[slot] = w[expert of the slot] x; slots sorted by expert (group in moe.cu): expert e's are order[starts[e]] to
// order[starts[e + 1]], those of no expert come last and get zeros. Grid (ceil(slots / 128), ceil(n / 128),
// n_expert + 1); blocks past an expert's count leave at once
extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_q8_id_TYPE(const u8* w, const int* order, const int* starts, const i8* q8, const float2* ds, float* y,
                    int n_expert, int per_token, int n, int k) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int e = blockIdx.z, first = starts[e];
  const Grouped rows = {order + first, starts[e + 1] - first, per_token};
  if ((int)(blockIdx.x * GS_BM) >= rows.m) return;
  if (e < n_expert) gs_gemm<TYPE>(w + e * gs_tensor_bytes<TYPE>(n, k / 32), q8, ds, y, rows, n, k, n, 0);
  else gs_zeros(y, rows, n);
}
