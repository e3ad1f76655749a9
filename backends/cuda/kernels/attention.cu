// Attention of a few queries over a long key-value cache (split-KV): each key and value is read once for all the query
// heads that share it, 16 bytes per lane. The positions that a token sees are cut into fixed chunks, and a second kernel
// merges their partial results in a fixed order. Nothing else is read, and bits depend on no other token. Positions are
// read from device memory, so that one captured graph serves every length up to the grid's.
//
// LANES lanes work on one position; lane l holds dimensions (c * LANES + l) * 8 .. + 7, c = 0, 1, ... . Each group of
// lanes keeps its own running maximum, sum and output.
#include "cache.cuh"
#include "mask.cuh"

// pieces of 8 elements that a lane has of a row
static __device__ constexpr int gs_pieces(int width, int lanes) { return (width + 8 * lanes - 1) / (8 * lanes); }
// Lanes per position: the largest power of two that divides both widths evenly. Where that leaves a lane more than its
// registers hold, or where pieces are not whole, more lanes, some of which idle
static __device__ constexpr int gs_lanes(int dk, int dv) {
  int n = 32;
  while (n && (dk % (8 * n) || dv % (8 * n))) n /= 2;
  if (n && (dk + dv) / n <= 144) return n;
  n = n ? n : 1;
  while (gs_pieces(dk, n) + gs_pieces(dv, n) > 8) n *= 2;
  return n;
}
enum { GS_WARPS = 4 };
#define GS_LOWEST -1.0e30f  // finite, so that lowest - lowest is 0 and not NaN

struct Cache {  // strides in bytes, from cell to cell and from head to head
  const u8 *k, *v;
  const int* table;
  i64 k_pos, k_head, v_pos, v_head;
};

// whether a row of D has an element d; known where the lanes share it out evenly
template <int D, int LANES> GS_DEV bool gs_within(int d) { return D % (8 * LANES) == 0 || d < D; }
template <class T, int D, int LANES> GS_DEV typename T::Raw gs_piece(const u8* row, int i) {
  return gs_within<D, LANES>(i) ? T::load(row, i, D - i) : typename T::Raw{};
}

// The chunks of a token begin with the block of the first position that it sees
struct Chunk {
  int begin, end;
};
GS_DEV Chunk gs_chunk(const Sight& sight, int number, int chunk) {
  const int first = gs_block_of(sight.first) * GS_CELL_BLOCK + number * chunk;
  return {gs_max(first, sight.first), gs_min(sight.last + 1, first + chunk)};
}
GS_DEV int gs_chunks(const Sight& sight, int chunk) {
  return gs_ceil_div(sight.last + 1 - gs_block_of(sight.first) * GS_CELL_BLOCK, chunk);
}

// scale makes scores logarithms to base 2, or score / cap where there is a cap; cap is to base 2, too, and 0 for none.
// partials[token, head, chunk] = (output[DV], max, sum); chunks that a token does not have are not written. Grid (kv_heads * ceil(G / H), chunks, tokens), G = heads /
// kv_heads
template <class A, class B, int DK, int DV, int H>
GS_DEV void gs_attention(const float* q, const Cache& cache, const Mask& mask, float* partials, int heads,
                         int kv_heads, i64 q_head, i64 q_token, float scale, float cap, int chunk) {
  constexpr int LANES = gs_lanes(DK, DV), PER_WARP = 32 / LANES, GROUPS = GS_WARPS * PER_WARP;
  constexpr int CK = gs_pieces(DK, LANES), CV = gs_pieces(DV, LANES);
  constexpr int AHEAD = CK + CV > 12 || B::AHEAD == 1 ? 1 : A::AHEAD;  // as registers allow
  constexpr int STEP = GROUPS * AHEAD, LOOKUPS = STEP <= GS_CELL_BLOCK ? 1 : AHEAD;  // a step is within one block or not
  gs_pdl_launch();
  gs_pdl_wait();
  const int per_kv = heads / kv_heads, sets = gs_ceil_div(per_kv, H), kv = blockIdx.x / sets;
  const int first_head = kv * per_kv + blockIdx.x % sets * H, last_head = (kv + 1) * per_kv - 1, token = blockIdx.z;
  const int group = threadIdx.x / LANES, l = threadIdx.x % LANES;
  const u8 *keys = cache.k + kv * cache.k_head, *values = cache.v + kv * cache.v_head;
  const Sight sight = gs_sight(mask, token);
  const int begin = gs_chunk(sight, blockIdx.y, chunk).begin, end = gs_chunk(sight, blockIdx.y, chunk).end;
  if (begin >= end) return;
  const int* const table = cache.table + sight.entry;
  const auto seen_at = [&](int p) { return gs_min(gs_max(p, begin), end - 1); };  // loads are of positions seen only
  int blocks[LOOKUPS];
  const auto look_up = [&](int base) {
#pragma unroll
    for (int a = 0; a < LOOKUPS; a++)
      blocks[a] = table[gs_block_of(seen_at(STEP <= GS_CELL_BLOCK ? base : base + a * GROUPS + group))];
  };
  look_up(begin / STEP * STEP);

  float query[H][CK * 8], out[H][CV * 8] = {}, top[H], sum[H];
#pragma unroll
  for (int h = 0; h < H; h++) {
    const float* from = q + token * q_token + gs_min(first_head + h, last_head) * q_head;
    top[h] = GS_LOWEST, sum[h] = 0.0f;
#pragma unroll
    for (int i = 0; i < CK * 8; i++) {
      const int d = (i / 8 * LANES + l) * 8 + i % 8;
      query[h][i] = gs_within<DK, LANES>(d) ? from[d] * scale : 0.0f;
    }
  }
  for (int base = begin / STEP * STEP; base < end; base += STEP) {  // the same count for every lane: shuffles below
    i64 cell[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) cell[a] = gs_cell(blocks[a % LOOKUPS], seen_at(base + a * GROUPS + group));
    look_up(base + STEP);
    typename A::Raw k[AHEAD][CK];
    typename B::Raw v[AHEAD][CV];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
#pragma unroll
      for (int c = 0; c < CK; c++) k[a][c] = gs_piece<A, DK, LANES>(keys + cell[a] * cache.k_pos, (c * LANES + l) * 8);
      if (AHEAD > 1)
#pragma unroll
        for (int c = 0; c < CV; c++) v[a][c] = gs_piece<B, DV, LANES>(values + cell[a] * cache.v_pos, (c * LANES + l) * 8);
    }
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const int p = base + a * GROUPS + group;
      const bool seen = p >= begin && p < end;
#pragma unroll
      for (int h = 0; h < H; h++) {
        float s = 0.0f;
#pragma unroll
        for (int i = 0; i < CK * 8; i++) s = fmaf(query[h][i], A::value(k[a][i / 8], i % 8), s);
#pragma unroll
        for (int m = LANES / 2; m > 0; m /= 2) s += gs_shfl_xor(s, m);
        if (cap > 0.0f) s = cap * tanhf(s);
        if (mask.max_bias > 0.0f) s += (p - sight.last) * 1.44269504f * gs_slope(mask.max_bias, first_head + h, heads);
        if (AHEAD == 1 && h == 0)  // keys and values at once would not fit the registers
#pragma unroll
          for (int c = 0; c < CV; c++)
            v[a][c] = gs_piece<B, DV, LANES>(values + cell[a] * cache.v_pos, (c * LANES + l) * 8);
        const float up = seen ? fmaxf(top[h], s) : top[h];
        const float keep = gs_exp2(top[h] - up), e = seen ? gs_exp2(s - up) : 0.0f;
        top[h] = up, sum[h] = fmaf(sum[h], keep, e);
#pragma unroll
        for (int i = 0; i < CV * 8; i++) out[h][i] = fmaf(e, B::value(v[a][i / 8], i % 8), out[h][i] * keep);
      }
    }
  }
  GS_SHARED(float, all, GROUPS * (DV + 2));
  for (int h = 0; h < H; h++) {  // one head at a time: shared memory for one
    gs_sync();
#pragma unroll
    for (int g = 0; g < H; g++)
      if (g == h) {  // registers are indexed by constants only
#pragma unroll
        for (int i = 0; i < CV * 8; i++) {
          const int d = (i / 8 * LANES + l) * 8 + i % 8;
          if (gs_within<DV, LANES>(d)) all[group * (DV + 2) + d] = out[g][i];
        }
        if (l == 0) all[group * (DV + 2) + DV] = top[g], all[group * (DV + 2) + DV + 1] = sum[g];
      }
    gs_sync();
    if (first_head + h > last_head) continue;
    float best = GS_LOWEST;
    for (int g = 0; g < GROUPS; g++) best = fmaxf(best, all[g * (DV + 2) + DV]);
    float* to = partials + (((i64)token * heads + first_head + h) * gridDim.y + blockIdx.y) * (DV + 2);
    for (int d = threadIdx.x; d < DV + 2; d += GS_WARPS * 32) {
      float y = 0.0f;
      for (int g = 0; g < GROUPS; g++) y = fmaf(all[g * (DV + 2) + d], gs_exp2(all[g * (DV + 2) + DV] - best), y);
      to[d] = d == DV ? best : y;
    }
  }
}

// y[token, head] = sum of the chunks' outputs, each at its own maximum; no position at all gives zeros. A `sinks` entry
// is a logit without a value (null: none). Grid (heads, tokens)
extern "C" __global__ void __launch_bounds__(256)
    attention_merge(const float* partials, const float* sinks, const int* where, float* y, int most, int dv, i64 y_head,
                    i64 y_token, int chunk, int window, int span) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int chunks = gs_min(gs_chunks(gs_sight(Mask{where, window, span, 0.0f}, blockIdx.y), chunk), most);
  const float* from = partials + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * most * (dv + 2);
  const float sink = sinks ? sinks[blockIdx.x] * 1.44269504f : GS_LOWEST;
  float best = sink;
  for (int c = 0; c < chunks; c++) best = fmaxf(best, from[(i64)c * (dv + 2) + dv]);
  float sum = sinks ? gs_exp2(sink - best) : 0.0f;
  for (int c = 0; c < chunks; c++)
    sum = fmaf(from[(i64)c * (dv + 2) + dv + 1], gs_exp2(from[(i64)c * (dv + 2) + dv] - best), sum);
  for (int d = threadIdx.x; d < dv; d += blockDim.x) {
    float v = 0.0f;
    for (int c = 0; c < chunks; c++)
      v = fmaf(from[(i64)c * (dv + 2) + d], gs_exp2(from[(i64)c * (dv + 2) + dv] - best), v);
    y[blockIdx.y * y_token + blockIdx.x * y_head + d] = sum > 0.0f ? v / sum : 0.0f;
  }
}

//@ for KEYS_VALUES_DK_DV_HEADS
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_KEYS_VALUES_DK_DV_HEADS(const float* q, const u8* k, const u8* v, const int* where, const int* table,
                                      float* partials, int heads, int kv_heads, i64 k_pos,
                                      i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale,
                                      float cap, int chunk, int window, int span, float max_bias) {
  const Cache cache = {k, v, table, k_pos, k_head, v_pos, v_head};
  const Mask mask = {where, window, span, max_bias};
  gs_attention<KEYS, VALUES, DK, DV, HEADS>(q, cache, mask, partials, heads, kv_heads, q_head, q_token, scale, cap,
                                            chunk);
}
