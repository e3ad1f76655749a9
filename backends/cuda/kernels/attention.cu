// Attention of a few queries over a long key-value cache: each key and value is read once for all the query heads
// that share it, 16 bytes a lane, and the KV length is cut into fixed chunks whose partial results a second kernel
// merges in a fixed order. Query t sees positions range[2t] <= p < range[2t+1], which live in device memory, so that
// one captured graph serves every length up to the grid's.
//
// LANES lanes take one position; lane l holds dimensions (c * LANES + l) * 8 .. + 7, c = 0, 1, ... . Each group of
// lanes keeps its own running maximum, sum and output.
#include "common.cuh"

// AHEAD: positions of which keys and values are loaded before the first is used
struct f16 {
  enum { AHEAD = 2 };
  typedef u16 Cell;
  struct Raw { uint4 v; };
  GS_DEV Raw load(const Cell* p) { return {*(const uint4*)p}; }
  GS_DEV float value(const Raw& r, int i) {
    const u32 w = i / 2 == 0 ? r.v.x : i / 2 == 1 ? r.v.y : i / 2 == 2 ? r.v.z : r.v.w;
    return gs_half((u16)(i % 2 ? w >> 16 : w));
  }
};
struct f32 {
  enum { AHEAD = 1 };
  typedef float Cell;
  struct Raw { float4 a, b; };
  GS_DEV Raw load(const Cell* p) { return {*(const float4*)p, *(const float4*)(p + 4)}; }
  GS_DEV float value(const Raw& r, int i) {
    const float4& v = i < 4 ? r.a : r.b;
    return i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w;
  }
};

static __device__ constexpr int gs_lanes(int dk, int dv) {  // the most lanes, a power of two, that both widths share out evenly
  int n = 32;
  while (dk / 8 % n || dv / 8 % n) n /= 2;
  return n;
}
enum { GS_WARPS = 4 };
#define GS_LOWEST -1.0e30f  // finite, so that lowest - lowest is 0 and not NaN

struct Cache {
  const void *k, *v;
  i64 k_pos, k_head, v_pos, v_head;
};

// grid (kv_heads * ceil(G / H), chunks, tokens), G = heads / kv_heads; part[token, head, chunk] = (output[DV], max, sum)
template <class T, int DK, int DV, int H>
GS_DEV void gs_attention(const float* q, const Cache& cache, const int* range, float* part, int heads, int kv_heads,
                         i64 q_head, i64 q_token, float scale, int chunk) {
  constexpr int LANES = gs_lanes(DK, DV), PER_WARP = 32 / LANES, GROUPS = GS_WARPS * PER_WARP;
  constexpr int AHEAD = T::AHEAD, CK = DK / 8 / LANES, CV = DV / 8 / LANES;
  gs_pdl_launch();
  gs_pdl_wait();
  const int per_kv = heads / kv_heads, sets = gs_ceil_div(per_kv, H), kv = blockIdx.x / sets;
  const int first_head = kv * per_kv + blockIdx.x % sets * H, last_head = (kv + 1) * per_kv - 1, token = blockIdx.z;
  const int group = threadIdx.x / LANES, l = threadIdx.x % LANES;
  const typename T::Cell* keys = (const typename T::Cell*)cache.k + kv * cache.k_head;
  const typename T::Cell* values = (const typename T::Cell*)cache.v + kv * cache.v_head;
  int begin = range[2 * token], end = range[2 * token + 1];
  begin = begin > (int)blockIdx.y * chunk ? begin : (int)blockIdx.y * chunk;
  end = gs_min(end, (int)(blockIdx.y + 1) * chunk);

  float query[H][CK * 8], out[H][CV * 8] = {}, top[H], sum[H];
#pragma unroll
  for (int h = 0; h < H; h++) {
    const float* from = q + token * q_token + gs_min(first_head + h, last_head) * q_head;
    top[h] = GS_LOWEST, sum[h] = 0.0f;
#pragma unroll
    for (int i = 0; i < CK * 8; i++) query[h][i] = from[(i / 8 * LANES + l) * 8 + i % 8] * scale * 1.44269504f;
  }
  for (int base = begin; base < end; base += GROUPS * AHEAD) {  // the same count for every lane: shuffles below
    typename T::Raw k[AHEAD][CK], v[AHEAD][CV];
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const i64 p = gs_min(base + a * GROUPS + group, end - 1);
#pragma unroll
      for (int c = 0; c < CK; c++) k[a][c] = T::load(keys + p * cache.k_pos + (c * LANES + l) * 8);
#pragma unroll
      for (int c = 0; c < CV; c++) v[a][c] = T::load(values + p * cache.v_pos + (c * LANES + l) * 8);
    }
#pragma unroll
    for (int a = 0; a < AHEAD; a++) {
      const bool seen = base + a * GROUPS + group < end;
#pragma unroll
      for (int h = 0; h < H; h++) {
        float s = 0.0f;
#pragma unroll
        for (int i = 0; i < CK * 8; i++) s = fmaf(query[h][i], T::value(k[a][i / 8], i % 8), s);
#pragma unroll
        for (int m = LANES / 2; m > 0; m /= 2) s += gs_shfl_xor(s, m);
        const float up = seen ? fmaxf(top[h], s) : top[h], keep = gs_exp2(top[h] - up), e = seen ? gs_exp2(s - up) : 0.0f;
        top[h] = up, sum[h] = fmaf(sum[h], keep, e);
#pragma unroll
        for (int i = 0; i < CV * 8; i++) out[h][i] = fmaf(e, T::value(v[a][i / 8], i % 8), out[h][i] * keep);
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
        for (int i = 0; i < CV * 8; i++) all[group * (DV + 2) + (i / 8 * LANES + l) * 8 + i % 8] = out[g][i];
        if (l == 0) all[group * (DV + 2) + DV] = top[g], all[group * (DV + 2) + DV + 1] = sum[g];
      }
    gs_sync();
    if (first_head + h > last_head) continue;
    float best = GS_LOWEST;
    for (int g = 0; g < GROUPS; g++) best = fmaxf(best, all[g * (DV + 2) + DV]);
    float* to = part + (((i64)token * heads + first_head + h) * gridDim.y + blockIdx.y) * (DV + 2);
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
    attention_merge(const float* part, const float* sinks, float* y, int chunks, int dv, i64 y_head, i64 y_token) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* from = part + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * chunks * (dv + 2);
  const float sink = sinks ? sinks[blockIdx.x] * 1.44269504f : GS_LOWEST;
  float best = sink;
  for (int c = 0; c < chunks; c++) best = fmaxf(best, from[(i64)c * (dv + 2) + dv]);
  float sum = sinks ? gs_exp2(sink - best) : 0.0f;
  for (int c = 0; c < chunks; c++) sum = fmaf(from[(i64)c * (dv + 2) + dv + 1], gs_exp2(from[(i64)c * (dv + 2) + dv] - best), sum);
  for (int d = threadIdx.x; d < dv; d += blockDim.x) {
    float v = 0.0f;
    for (int c = 0; c < chunks; c++) v = fmaf(from[(i64)c * (dv + 2) + d], gs_exp2(from[(i64)c * (dv + 2) + dv] - best), v);
    y[blockIdx.y * y_token + blockIdx.x * y_head + d] = sum > 0.0f ? v / sum : 0.0f;
  }
}

#define GS_ATTENTION_ARGS q, Cache{k, v, k_pos, k_head, v_pos, v_head}, range, part, heads, kv_heads, q_head, q_token, scale, chunk
//@ for TYPE
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_64_64_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 64, 64, 1>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_64_64_2_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 64, 64, 2>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_64_64_4_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 64, 64, 4>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_64_64_8_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 64, 64, 8>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_96_96_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 96, 96, 1>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_96_96_2_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 96, 96, 2>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_96_96_4_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 96, 96, 4>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_128_128_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 128, 128, 1>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_128_128_2_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 128, 128, 2>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_128_128_4_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 128, 128, 4>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_128_128_8_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 128, 128, 8>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_192_128_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 192, 128, 1>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_192_128_2_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 192, 128, 2>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_256_256_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 256, 256, 1>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_256_256_2_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 256, 256, 2>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_256_256_4_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 256, 256, 4>(GS_ATTENTION_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_576_512_1_TYPE(const float* q, const void* k, const void* v, const int* range, float* part, int heads,
        int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, int chunk) {
  gs_attention<TYPE, 576, 512, 1>(GS_ATTENTION_ARGS);
}
