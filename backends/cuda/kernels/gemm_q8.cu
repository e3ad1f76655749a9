// y[m, n] = sum_k x[m, k] * w[n, k] with x quantised to int8 (quantize.cu) and w decoded to int8 on its way into shared
// memory (int8.cuh): the exact integer sum of each unit of 32, times the two scales. A token's result differs from that
// of the mat-vec only by the order in which units are added. A block of 8 warps computes 128 × 128, a warp 64 × 32, in
// slices of four units. x comes by cp.async; w is decoded through registers, in two steps, while the previous slice is
// multiplied. Besides itself, a product costs two FMAs for each of the four sums of a lane:
// * Sums start at BIAS, so that their bits are those of the subnormal float (BIAS + sum) * 2^-149. The first FMA
//   multiplies by one scale and subtracts the bias again, exactly; the two scales together carry the factor 2^149.
// * Minima times sums of x are a product of their own, for two units at once: a minimum is split into two bfloat16,
//   which is exact, a sum into two tf32 (error 2^-22), and all four products are added on the tensor cores.
#include "gemm_q8.cuh"

// Offsets of a lane's share of a warp's 64 × 32: rows of unit u are at `offset ^ u * 32`, later rows at a constant
// distance.
struct Lane {
  u32 a, b, d, c;
};
template <class T> GS_DEV Lane gs_lane(const Shared<T>& s) {
  const uint4 p = s.places[gs_thread()];
  return {p.z & 0xffff, p.z >> 16, p.w & 0xffff, p.w >> 16};
}
// One warp's 64 × 32 of a unit. The activations' scale is applied first: that way fewer registers are live.
// WHOLE: all 64 rows exist; else `left` of them, and groups of 16 rows without any are skipped.
template <class T, bool WHOLE>
GS_DEV void gs_multiply(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int u, int left) {
  enum { BIAS = gs_int8<T>::BIAS };
  u32 b[2][4];
#pragma unroll
  for (int j = 0; j < 2; j++)
    gs_ldmatrix4(b[j], t.w + (at.b ^ u * 32) + j * 16 * GS_ROW);
  const float4* const ws = (const float4*)((const u8*)t.ws + u * GS_BN * 4 + at.c);
  const float4 w[2] = {ws[0], ws[1]};
  const float d[4][2] = {{w[0].x, w[0].y}, {w[0].z, w[0].w}, {w[1].x, w[1].y}, {w[1].z, w[1].w}};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (!WHOLE && i * 16 >= left) break;
    u32 a[4];
    gs_ldmatrix4(a, t.x + (at.a ^ u * 32) + i * 16 * GS_ROW);
    const float4 x = *(const float4*)((const u8*)t.xs + at.d + (u * GS_BM + i * 16) * 8);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int sum[4] = {BIAS, BIAS, BIAS, BIAS};
      gs_mma_int8(sum, a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float v = fmaf(gs_bits((u32)sum[e]), e < 2 ? x.x : x.z, e < 2 ? x.y : x.w);
        acc[i][j][e] = fmaf(v, d[j][e % 2], acc[i][j][e]);
      }
    }
  }
}
// The same where each half of a unit has its own scale, which is then applied first; 32 rows at a time.
template <class T, bool WHOLE>
GS_DEV void gs_multiply_halves(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int u, int left) {
  enum { BIAS = gs_int8<T>::BIAS };
#pragma unroll
  for (int i0 = 0; i0 < 4; i0 += 2) {
    if (!WHOLE && i0 * 16 >= left) break;
    u32 a[2][4], b[4];
    float2 x[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      gs_ldmatrix4(a[i], t.x + (at.a ^ u * 32) + (i0 + i) * 16 * GS_ROW);
      x[i] = *(const float2*)((const u8*)t.xs + at.d + (u * GS_BM + (i0 + i) * 16) * 4);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (j % 2 == 0) gs_ldmatrix4(b, t.w + (at.b ^ u * 32) + j * 8 * GS_ROW);
      const u8* const columns = (const u8*)t.halves + at.c + (u * (GS_BN / 2) + j * 4) * sizeof(Columns);
      const float4 w = *(const float4*)columns;
      const float2 c = *(const float2*)(columns + 16);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int first[4] = {BIAS, BIAS, BIAS, BIAS}, second[4] = {BIAS, BIAS, BIAS, BIAS};
        gs_mma_int8_k16(first, a[i][0], a[i][1], b[j % 2 * 2]);
        gs_mma_int8_k16(second, a[i][2], a[i][3], b[j % 2 * 2 + 1]);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float v = fmaf(gs_bits((u32)first[e]), e % 2 ? w.y : w.x, e % 2 ? c.y : c.x);
          const float both = fmaf(gs_bits((u32)second[e]), e % 2 ? w.w : w.z, v);
          acc[i0 + i][j][e] = fmaf(both, e < 2 ? x[i].x : x[i].y, acc[i0 + i][j][e]);
        }
      }
    }
  }
}
template <class T, bool WHOLE>
GS_DEV void gs_multiply_units(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int unit, int left) {
#pragma unroll(WHOLE ? GS_AT_ONCE : 1)
  for (int u = unit; u < unit + 2; u++) {
    if constexpr (gs_int8<T>::HALVES) gs_multiply_halves<T, WHOLE>(acc, t, at, u, left);
    else gs_multiply<T, WHOLE>(acc, t, at, u, left);
  }
}
template <class T>
GS_DEV void gs_multiply_two(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int unit, int left) {
  if (left >= 64) gs_multiply_units<T, true>(acc, t, at, unit, left);
  else if (left > 0) gs_multiply_units<T, false>(acc, t, at, unit, left);
}
// Minima of a slice times sums of x. A unit takes four columns of the product: high·high, high·low, low·high, low·low.
template <class T> GS_DEV void gs_add_minima(float (&acc)[4][4][4], const float* xm, const Tile<T>& t) {
  enum { MIN = gs_int8<T>::MIN };
  const u32 thread = gs_thread(), lane = thread % 32, row0 = gs_row0(thread), col0 = gs_col0(thread);
  const u32 pick = lane % 2 ? 0x3244 : 0x1044;  // a lane's bytes of a minimum, to the top
#pragma unroll
  for (int pair = 0; pair < 2 * MIN; pair++) {  // of sums
    u32 b[4][2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint2 w = ((const uint2*)t.wm)[(col0 + j * 8 + lane / 4) * 2 * MIN + pair];
      b[j][0] = gs_prmt(w.x, 0, pick), b[j][1] = gs_prmt(w.y, 0, pick);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint4 x = ((const uint4*)xm)[((row0 / 2 + i * 8 + lane / 4) * 2 + lane % 4 / 2) * 2 * MIN + pair];
      const u32 a[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int j = 0; j < 4; j++) gs_mma_tf32(acc[i][j], a, b[j][0], b[j][1]);
    }
  }
}

// Results go through shared memory, so that rows are written 16 bytes at a time. A fragment of four floats is stored as
// one, which needs no shuffling of registers.
template <class Rows>
GS_DEV void gs_write(const float (&acc)[4][4][4], float4* fragments, float* y, const Rows& rows, int m0, int n0,
                     int n) {
  const u32 thread = threadIdx.x;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const float(&v)[4] = acc[i / 4][i % 4];
    fragments[thread / 32 * 512 + i * 32 + thread % 32] = make_float4(v[0], v[1], v[2], v[3]);
  }
  gs_sync();
  const u32 c = thread % 32 * 4, from = c / 32 * 512 + c % 32 / 8 * 32 + c % 8 / 2;
#pragma unroll 4
  for (u32 r = thread / 32; r < GS_BM; r += GS_THREADS / 32) {
    if (m0 + (int)r >= rows.m) return;
    const u32 place = r / 64 * 2048 + r % 64 / 16 * 128 + r % 8 * 4 + from;
    const float2* const at = (const float2*)&fragments[place] + r % 16 / 8;
    const float2 lo = at[0], hi = at[2];
    const float v[4] = {lo.x, lo.y, hi.x, hi.y};
    float* const to = y + (i64)rows.y(m0 + r) * n + n0 + c;
    if (n % 4 == 0 && n0 + (int)c < n) *(float4*)to = make_float4(lo.x, lo.y, hi.x, hi.y);
    else
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (n0 + (int)c + i < n) to[i] = v[i];
  }
}

// Rows first .. first + n - 1 of a matrix of `total`. Grid (ceil(m / 128), ceil(n / 128)); dynamic shared memory
// sizeof(Shared<T>)
template <class T, class Rows>
GS_DEV void gs_gemm(const u8* w, const i8* q8, const float2* ds, float* y, const Rows& rows, int n, int k, int total,
                    int first) {
  enum { MIN = gs_int8<T>::MIN, STEPS = Weights<T>::STEPS };
  GS_DYNAMIC(Shared<T>, shared);
  Shared<T>& s = *shared;
  const int m0 = blockIdx.x * GS_BM, n0 = blockIdx.y * GS_BN, units = (u32)k / 32;
  s.places[threadIdx.x] = gs_places<T>(threadIdx.x);
  if (threadIdx.x == 0) s.base = gs_row<T>(w, total, units, first + n0);
  if (threadIdx.x < GS_BM)
    ((u32*)s.rows)[threadIdx.x % 32 * 4 + threadIdx.x / 32] = (u32)rows.x(gs_min(m0 + threadIdx.x, rows.m - 1)) * units;
  gs_sync();
  const int left = rows.m - m0 - gs_row0(threadIdx.x);  // rows that this warp has
  float acc[4][4][4] = {};
  Weights<T> weights;
  gs_load_x(s, s.tile[0], q8, ds, 0, units);
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    weights.load(i, s, s.tile[0], n - n0, 0, units);
    gs_copy_commit();
    gs_copy_wait<0>();
    weights.store(i, s, s.tile[0], 0, units);
  }
  gs_store_x(s, s.tile[0], 0);
  for (int u = 0, now = 0; u < units; u += GS_UNITS, now ^= 1) {
    gs_sync();  // this slice is complete (each has waited for its copies), and the other tile is read no more
    Tile<T>&t = s.tile[now], &other = s.tile[now ^ 1];
    if (MIN == 2) {
      gs_half_sums(s, t);
      gs_sync();
    }
    const int ahead = u + GS_UNITS;  // past the end in the last round, which loads what is there once more
    gs_load_x(s, other, q8, ds, ahead, units);
    weights.load(0, s, other, n - n0, ahead, units);
    gs_copy_commit();
    if (MIN && left > 0) gs_add_minima(acc, s.xm + (MIN == 1 ? now * GS_BM * 2 * GS_UNITS : 0), t);
    const Lane at = gs_lane(s);
    gs_multiply_two(acc, t, at, 0, left);
    gs_copy_wait<0>();
    weights.store(0, s, other, ahead, units);
    gs_store_x(s, other, now ^ 1);
    if (STEPS == 2) {
      weights.load(1, s, other, n - n0, ahead, units);
      gs_copy_commit();
    }
    gs_multiply_two(acc, t, at, 2, left);
    if (STEPS == 2) {
      gs_copy_wait<0>();
      weights.store(1, s, other, ahead, units);
    }
  }
  gs_sync();  // the tiles are free
  gs_write(acc, (float4*)shared, y, rows, m0, n0, n);
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
// y[slot] = w[expert of the slot] x. Slots are sorted by expert (`group` in moe.cu): those of expert e are
// order[starts[e]] to order[starts[e + 1] - 1]; slots without an expert come last and get zeros. Grid (ceil(slots /
// 128), ceil(n / 128), n_expert + 1); blocks past an expert's count return at once
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
