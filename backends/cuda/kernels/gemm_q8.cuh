// The shared-memory layout of a slice of gemm_q8.cu, and the loads that fill it.
#include "int8.cuh"

enum { GS_BM = 128, GS_BN = 128, GS_UNITS = 4, GS_ROW = GS_UNITS * 32, GS_THREADS = 256 };
#if __CUDA_ARCH__ == 900  // units that are unrolled together; on other cards two would need too many registers
#define GS_AT_ONCE 2
#else
#define GS_AT_ONCE 1
#endif
#define GS_X_SCALE 1.5474250491067253e26f  // 2^87
#define GS_W_SCALE 4.6116860184273879e18f  // 2^62
#define GS_BIT 1.4012984643248171e-45f     // 2^-149
struct Columns {  // two columns with a scale for each half, and the term that removes the bias of both halves
  float first[2], second[2], bias[2], none[2];
};
template <class T> struct Tile {  // one slice; rows of x and w in swizzled pieces of 16 bytes
  typedef gs_int8<T> As;
  u8 x[GS_BM * GS_ROW], w[GS_BN * GS_ROW];
  float xs[GS_UNITS * GS_BM * (As::HALVES ? 1 : 2)];     // in the order of gs_row_place; (d, bias term) if not HALVES
  float ws[As::HALVES ? 4 : GS_UNITS * GS_BN];           // in the order of gs_column_place
  Columns halves[As::HALVES ? GS_UNITS * GS_BN / 2 : 1];
  u32 wm[As::MIN ? GS_BN * GS_UNITS * As::MIN : 4];      // minima of a row, each two bfloat16
};
// A thread's byte offsets in a tile: where it writes, and where its lane reads first. In shared memory, to save
// registers
struct Places {
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
// Stores a sum of x as an operand of the minima's product, N sums per row. Rows r and r + 8 are interleaved. First come
// the high parts (truncated to tf32), then the remainders.
template <int N> GS_DEV void gs_put_sum(float* xm, int row, int i, float v) {
  float* const to = xm + gs_row_place(row) / 2 * 4 * N + i * 2 + row / 8 % 2;
  const float high = gs_bits(gs_bits(v) & 0xffffe000);
  to[0] = high, to[2 * N] = v - high;
}
GS_DEV int gs_row0(u32 thread) { return thread / 128 * 64; }  // of a warp
GS_DEV int gs_col0(u32 thread) { return thread / 32 % 4 * 32; }
template <class T> GS_DEV uint4 gs_places(u32 thread) {
  enum { HALVES = gs_int8<T>::HALVES, ACROSS = GS_UNITS / T::N, PER_ROW = HALVES ? 4 : 8 };
  const int row0 = gs_row0(thread), col0 = gs_col0(thread), lane = thread % 32;
  const int r = thread / ACROSS, u = thread % ACROSS * T::N, row = thread / 8 + thread % 8 / 4 * 64;
  const u32 x = gs_piece(thread / 8, thread % 8), w = gs_piece(r, u * 2);
  const u32 xs = (thread % 4 * GS_BM + gs_row_place(row)) * PER_ROW;
  const u32 ws = HALVES ? (u * (GS_BN / 2) + r / 2) * sizeof(Columns) + r % 2 * 4
                        : (u * GS_BN + gs_column_place(r)) * 4;
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

// Activations of a slice, by cp.async: 64 bytes per thread, and one unit's (d, d * sum) of two rows, which gs_store_x
// later replaces in place. Rows past the end repeat the last one and are not written; scales past the end are zero.
template <class T>
GS_DEV void gs_load_x(Shared<T>& s, Tile<T>& t, const i8* q8, const float2* ds, int unit0, int units) {
  enum { PER_ROW = gs_int8<T>::HALVES ? 4 : 8 };
  const u32 thread = gs_thread(), c = thread % 8, unit = unit0 + c % 4;
  const uint4 rows = s.rows[thread / 8];
  const uint2 place = *(const uint2*)&s.places[thread];
  const i8* const from = gs_now(q8 + (i64)gs_min(unit0 + c / 2, units - 1) * 32 + c % 2 * 16);
  const u32 at[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
  for (int i = 0; i < 4; i++)
    gs_copy16(t.x + (place.x & 0xffff) + i * (GS_BM / 4) * GS_ROW, from + (u64)at[i] * 32, true);
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

// Weights: 128 rows × 4 units by 256 threads, two units each, in steps of N. The packed 16-byte pieces are loaded to
// where the decoded bytes will be stored; everything else waits in registers.
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
