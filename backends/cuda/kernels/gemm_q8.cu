// y[m, n] = sum_k x[m, k] * w[n, k] with x quantised to int8 (quantize.cu) and w decoded to int8 on the way into shared
// memory (int8.cuh): the exact integer sums of each unit of 32, times the two scales. So a token's result is that of the
// mat-vec but for the order in which units are added.
// A block of 8 warps makes 128 × 128, a warp 64 × 32; each slice is four units: x by cp.async, w by one decode a thread
// through registers, in two turns while the slice before is multiplied.
// What a product costs besides itself is two FMAs for each of its four sums a lane:
// * Sums start at BIAS, which makes their bits those of a subnormal float, (BIAS + sum) * 2^-149. The first FMA
//   multiplies that by the weights' scale and takes the bias off again, exactly; the two scales carry 2^149 between them.
// * Minima times sums of x are a product of their own, of two units at once: a minimum is two bfloat16, which is exact, a
//   sum two tf32 (2^-22 off), and all four products are added on the tensor cores.
#include "int8.cuh"

enum { GS_BM = 128, GS_BN = 128, GS_UNITS = 4, GS_ROW = GS_UNITS * 32, GS_THREADS = 256 };
#if __CUDA_ARCH__ == 900  // units whose products are one stretch of code; elsewhere two take more registers than there are
#define GS_AT_ONCE 2
#else
#define GS_AT_ONCE 1
#endif
#define GS_X_SCALE 1.5474250491067253e26f  // 2^87
#define GS_W_SCALE 4.6116860184273879e18f  // 2^62
#define GS_BIT 1.4012984643248171e-45f     // 2^-149
struct Columns {  // two columns whose halves have scales of their own: of the first halves, of the second, and what takes
  float first[2], second[2], bias[2], none[2];  // the bias off both
};
template <class T> struct Tile {  // one slice; rows of x and w in swizzled pieces of 16 bytes
  typedef gs_int8<T> As;
  u8 x[GS_BM * GS_ROW], w[GS_BN * GS_ROW];
  float xs[GS_UNITS * GS_BM * (As::HALVES ? 1 : 2)];     // in the order of gs_row_place; else with what takes the bias off
  float ws[As::HALVES ? 4 : GS_UNITS * GS_BN];           // in the order of gs_column_place
  Columns halves[As::HALVES ? GS_UNITS * GS_BN / 2 : 1];
  u32 wm[As::MIN ? GS_BN * GS_UNITS * As::MIN : 4];      // minima of a row, each two bfloat16
};
struct Places {  // of a thread in a tile, in bytes: what it writes; what its lane reads first. Kept here for the registers' sake
  u16 x, w, xs, ws, a, b, d, c;
};
template <class T> struct Shared {
  Tile<T> tile[2];
  uint4 places[GS_THREADS];
  uint4 rows[GS_BM / 4];  // where rows r, r + 32, r + 64, r + 96 of x start, in units
  float xm[gs_int8<T>::MIN ? 2 * GS_BM * 2 * GS_UNITS : 4];  // sums of x in units, of both tiles; in half units, of one
  Row base;                                                  // the first row of weights
};
GS_DEV int gs_piece(int row, int piece) { return row * GS_ROW + (piece ^ row % 8) * 16; }
// what a lane needs of 16 rows, or of 32 columns, side by side
GS_DEV int gs_row_place(int row) { return row / 16 * 16 + row % 8 * 2 + row / 8 % 2; }
GS_DEV int gs_column_place(int col) { return col / 32 * 32 + col / 2 % 4 * 8 + col / 8 % 4 * 2 + col % 2; }
GS_DEV u32 gs_two_bf16(float v) { return gs_pack_bf16(v, v - gs_bits(gs_pack_bf16(v, v) << 16)); }
// Sums of x, N in a row, as operands of a product: those of rows r and r + 8 side by side; high parts (cut off as tf32),
// then what they leave.
template <int N> GS_DEV void gs_put_sum(float* xm, int row, int i, float v) {
  float* const to = xm + gs_row_place(row) / 2 * 4 * N + i * 2 + row / 8 % 2;
  const float high = gs_bits(gs_bits(v) & 0xffffe000);
  to[0] = high, to[2 * N] = v - high;
}
GS_DEV int gs_row0(u32 thread) { return thread / 128 * 64; }  // of a warp
GS_DEV int gs_col0(u32 thread) { return thread / 32 % 4 * 32; }
template <class T> GS_DEV uint4 gs_places(u32 thread) {
  enum { HALVES = gs_int8<T>::HALVES, ACROSS = GS_UNITS / T::N, PER_ROW = HALVES ? 4 : 8 };
  const int row0 = gs_row0(thread), col0 = gs_col0(thread), lane = thread % 32, r = thread / ACROSS, u = thread % ACROSS * T::N, row = thread / 8 + thread % 8 / 4 * 64;
  const u32 x = gs_piece(thread / 8, thread % 8), w = gs_piece(r, u * 2);
  const u32 xs = (thread % 4 * GS_BM + gs_row_place(row)) * PER_ROW;
  const u32 ws = HALVES ? (u * (GS_BN / 2) + r / 2) * sizeof(Columns) + r % 2 * 4 : (u * GS_BN + gs_column_place(r)) * 4;
  const u32 a = gs_piece(row0 + lane % 16, lane / 16), b = gs_piece(col0 + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const u32 d = (row0 + lane / 4 * 2) * PER_ROW;
  const u32 c = HALVES ? (col0 / 2 + lane % 4) * sizeof(Columns) : (col0 + lane % 4 * 8) * 4;
  return make_uint4(x | w << 16, xs | ws << 16, a | b << 16, d | c << 16);
}

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

// Activations of a slice, by cp.async: 64 bytes a thread, and a unit's scale of two rows (with d * sum), which waits where
// what is made of it will be. Rows past the end repeat the last one and are not written; scales past the end are zero.
template <class T> GS_DEV void gs_load_x(Shared<T>& s, Tile<T>& t, const i8* q8, const float2* ds, int unit0, int units) {
  enum { PER_ROW = gs_int8<T>::HALVES ? 4 : 8 };
  const u32 thread = gs_thread(), c = thread % 8, unit = unit0 + c % 4;
  const uint4 rows = s.rows[thread / 8];
  const uint2 place = *(const uint2*)&s.places[thread];
  const i8* const from = gs_now(q8 + (i64)gs_min(unit0 + c / 2, units - 1) * 32 + c % 2 * 16);
  const u32 at[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
  for (int i = 0; i < 4; i++) gs_copy16(t.x + (place.x & 0xffff) + i * (GS_BM / 4) * GS_ROW, from + (u64)at[i] * 32, true);
#pragma unroll
  for (int i = 0; i < 2; i++)
    gs_copy_small<PER_ROW>((u8*)t.xs + (place.y & 0xffff) + i * (GS_BM / 4) * PER_ROW,
                     ds + ((c < 4 ? at[i] : at[i + 2]) + gs_min(unit, units - 1)), unit < units);
}
template <class T> GS_DEV void gs_store_x(Shared<T>& s, Tile<T>& t, int which) {
  typedef gs_int8<T> As;
  const u32 thread = gs_thread();
  u8* const at = (u8*)t.xs + (s.places[thread].y & 0xffff);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    if (As::HALVES) *(float*)(at + i * (GS_BM / 4) * 4) *= GS_X_SCALE;
    else {
      float2* const to = (float2*)(at + i * (GS_BM / 4) * 8);
      const float2 ds = *to;
      const float d = ds.x * GS_X_SCALE;
      *to = make_float2(d, -d * (GS_BIT * As::BIAS));
      if (As::MIN == 1) {
        const u32 row = thread / 8 + thread % 8 / 4 * 64 + i * (GS_BM / 4);
        gs_put_sum<GS_UNITS>(s.xm + which * GS_BM * 2 * GS_UNITS, row, thread % GS_UNITS, ds.y);
      }
    }
  }
}
// sums of half a unit, from the tile itself; two units a thread
template <class T> GS_DEV void gs_half_sums(Shared<T>& s, Tile<T>& t) {
  const u32 thread = gs_thread(), u = thread % GS_UNITS;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 row = thread / GS_UNITS + i * (GS_THREADS / GS_UNITS);
    const float d = t.xs[(u * GS_BM + gs_row_place(row)) * 2] * (1.0f / GS_X_SCALE);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint4 q = *(const uint4*)(t.x + gs_piece(row, u * 2 + half));
      const u32 one = 0x01010101;
      const int sum = gs_dp4a(q.x, one, gs_dp4a(q.y, one, gs_dp4a(q.z, one, gs_dp4a(q.w, one, 0))));
      gs_put_sum<2 * GS_UNITS>(s.xm, row, u * 2 + half, d * (float)sum);
    }
  }
}

// Weights: 128 rows × 4 units by 256 threads, two units each, in steps of N. The pieces of 16
// bytes wait where what is made of them will be, the rest in registers.
template <class T> struct Weights {
  typedef gs_int8<T> As;
  enum { STEPS = 2 / T::N, ACROSS = GS_UNITS / T::N, APART = GS_BN / STEPS };  // rows from step to step
  typename T::Raw raw;
  __device__ __forceinline__ static int step(u32 across, int unit0, int units) {  // past the end: x is zero there
    return gs_min(unit0 / T::N + across, units / T::N - 1);
  }
  __device__ __forceinline__ void load(int i, const Shared<T>& s, Tile<T>& t, int rows, int unit0, int units) {
    const u32 thread = gs_thread(), r = gs_min(thread / ACROSS + i * APART, rows - 1);
    Row base = s.base;
    base.f += r * T::F;
    const int at = r * (units / T::N) + step(thread % ACROSS, unit0, units);
    const u32 piece = s.places[thread].x >> 16;
    gs_copy16(t.w + piece + i * APART * GS_ROW, base.q + at * 16, true);
    if (T::MORE) gs_copy16(t.w + (piece ^ 16) + i * APART * GS_ROW, T::more(base, at), true);
    raw = T::load(base, at, make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0));
  }
  __device__ __forceinline__ void store(int i, Shared<T>& s, Tile<T>& t, int unit0, int units) {
    const u32 thread = gs_thread(), piece = s.places[thread].x >> 16;
    raw.q = *(const uint4*)(t.w + piece + i * APART * GS_ROW);
    if constexpr (T::MORE) raw.more = *(const uint4*)(t.w + (piece ^ 16) + i * APART * GS_ROW);
    u8* const scales = (As::HALVES ? (u8*)t.halves : (u8*)t.ws) + (s.places[thread].y >> 16);
#pragma unroll
    for (int k = 0; k < T::N; k++) {
      Unit u;
      As::unpack(raw, k, step(thread % ACROSS, unit0, units), u);
      *(uint4*)(t.w + (piece ^ k * 32) + i * APART * GS_ROW) = make_uint4(u.v[0], u.v[1], u.v[2], u.v[3]);
      *(uint4*)(t.w + (piece ^ (k * 32 + 16)) + i * APART * GS_ROW) = make_uint4(u.v[4], u.v[5], u.v[6], u.v[7]);
      const float d = u.d[0] * GS_W_SCALE;
      if (As::HALVES) {
        const float second = u.d[1] * GS_W_SCALE;
        float* const at = (float*)(scales + (k * GS_BN + i * APART) / 2 * sizeof(Columns));
        at[0] = d, at[2] = second, at[4] = -(d + second) * (GS_BIT * As::BIAS);
      } else *(float*)(scales + (k * GS_BN + i * APART) * 4) = d;
#pragma unroll
      for (int h = 0; h < As::MIN; h++)
        t.wm[(thread / ACROSS + i * APART) * GS_UNITS * As::MIN + (thread % ACROSS * T::N + k) * As::MIN + h] =
            gs_two_bf16(u.m[h]);
    }
  }
};

// where a lane's part of a warp's 64 × 32 begins: unit u's rows are at `^ u * 32`, later ones at a constant distance
struct Lane {
  u32 a, b, d, c;
};
template <class T> GS_DEV Lane gs_lane(const Shared<T>& s) {
  const uint4 p = s.places[gs_thread()];
  return {p.z & 0xffff, p.z >> 16, p.w & 0xffff, p.w >> 16};
}
// one warp's 64 × 32 of a unit: the activations' scale first, for which fewer registers wait
template <class T> GS_DEV void gs_multiply(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int u) {
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
// the same where halves have scales of their own, which then come first; rows 32 at a time
template <class T> GS_DEV void gs_multiply_halves(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int u) {
  enum { BIAS = gs_int8<T>::BIAS };
#pragma unroll
  for (int i0 = 0; i0 < 4; i0 += 2) {
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
template <class T> GS_DEV void gs_multiply_two(float (&acc)[4][4][4], Tile<T>& t, const Lane& at, int unit) {
#pragma unroll(GS_AT_ONCE)
  for (int u = unit; u < unit + 2; u++) {
    if constexpr (gs_int8<T>::HALVES) gs_multiply_halves(acc, t, at, u);
    else gs_multiply(acc, t, at, u);
  }
}
// Minima of a slice times sums of x: a unit takes four places of the product, high high, high low, low high, low low
template <class T> GS_DEV void gs_add_minima(float (&acc)[4][4][4], const float* xm, const Tile<T>& t) {
  enum { MIN = gs_int8<T>::MIN };
  const u32 thread = gs_thread(), lane = thread % 32, row0 = gs_row0(thread), col0 = gs_col0(thread);
  const u32 pick = lane % 2 ? 0x3244 : 0x1044;  // a lane's part of a minimum, to the top
#pragma unroll
  for (int part = 0; part < 2 * MIN; part++) {  // two sums
    u32 b[4][2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint2 w = ((const uint2*)t.wm)[(col0 + j * 8 + lane / 4) * 2 * MIN + part];
      b[j][0] = gs_prmt(w.x, 0, pick), b[j][1] = gs_prmt(w.y, 0, pick);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint4 x = ((const uint4*)xm)[((row0 / 2 + i * 8 + lane / 4) * 2 + lane % 4 / 2) * 2 * MIN + part];
      const u32 a[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int j = 0; j < 4; j++) gs_mma_tf32(acc[i][j], a, b[j][0], b[j][1]);
    }
  }
}

// Results by way of shared memory (a fragment of four stays one, which keeps registers in order), so that rows are
// written 16 bytes at a time
template <class Rows>
GS_DEV void gs_write(const float (&acc)[4][4][4], float4* fragments, float* y, const Rows& rows, int m0, int n0, int n) {
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
    const float2* const at = (const float2*)&fragments[r / 64 * 2048 + r % 64 / 16 * 128 + r % 8 * 4 + from] + r % 16 / 8;
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

// rows first .. first + n of a matrix of `total`; grid (ceil(m / 128), ceil(n / 128)); dynamic shared memory sizeof(Shared<T>)
template <class T, class Rows>
GS_DEV void gs_gemm(const u8* w, const i8* q8, const float2* ds, float* y, const Rows& rows, int n, int k, int total, int first) {
  enum { MIN = gs_int8<T>::MIN, STEPS = Weights<T>::STEPS };
  GS_DYNAMIC(Shared<T>, shared);
  Shared<T>& s = *shared;
  const int m0 = blockIdx.x * GS_BM, n0 = blockIdx.y * GS_BN, units = (u32)k / 32;
  s.places[threadIdx.x] = gs_places<T>(threadIdx.x);
  if (threadIdx.x == 0) s.base = gs_row<T>(w, total, units, first + n0);
  if (threadIdx.x < GS_BM)
    ((u32*)s.rows)[threadIdx.x % 32 * 4 + threadIdx.x / 32] = (u32)rows.x(gs_min(m0 + threadIdx.x, rows.m - 1)) * units;
  gs_sync();
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
    if (MIN) gs_add_minima(acc, s.xm + (MIN == 1 ? now * GS_BM * 2 * GS_UNITS : 0), t);
    const Lane at = gs_lane(s);
    gs_multiply_two(acc, t, at, 0);
    gs_copy_wait<0>();
    weights.store(0, s, other, ahead, units);
    gs_store_x(s, other, now ^ 1);
    if (STEPS == 2) {
      weights.load(1, s, other, n - n0, ahead, units);
      gs_copy_commit();
    }
    gs_multiply_two(acc, t, at, 2);
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
