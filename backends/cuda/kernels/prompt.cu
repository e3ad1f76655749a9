// Attention of many queries on the tensor cores over an f16 cache: a running softmax over tiles of TILE positions, so
// that nothing of size tokens × positions is stored. A block takes 64 rows of one key-value head; a row is a (token,
// query head) pair with the heads of the group innermost, so that keys and values are read once for all heads that
// share them. Each of the four warps has 16 rows. Queries stay in registers (as halves, scaled), and so do
// probabilities. What a query sees is decided by (sequence, position), as in attention.cu.
#include "cache.cuh"
#include "mask.cuh"

enum { GS_ROWS_OF_BLOCK = 64, GS_THREADS = 128 };
#define GS_LOWEST -1.0e30f  // finite, so that lowest - lowest is 0 and not NaN

struct Place {
  int kv, group, rows, first;  // key-value head, heads of its group, tokens * group, this warp's first row
  __device__ __forceinline__ int row(int half) const { return first + threadIdx.x % 32 / 4 + half * 8; }
};

// a row of D halves is D / 8 pieces of 16 bytes; the low three bits of a piece's number are xored with the row
template <int D> GS_DEV u8* gs_piece(u8* tile, int row, int piece) {
  return tile + row * D * 2 + (piece ^ row % 8) * 16;
}
template <int D, int TILE> GS_DEV void gs_load_tile(u8* tile, const u16* from, i64 stride, int first, int end) {
#pragma unroll
  for (int i = 0; i < TILE * D / 8 / GS_THREADS; i++) {
    const int at = i * GS_THREADS + threadIdx.x, r = at / (D / 8), c = at % (D / 8);
    const bool valid = first + r < end;
    gs_copy16(gs_piece<D>(tile, r, c), valid ? from + (first + r) * stride + c * 8 : from, valid);
  }
}
template <int D>
GS_DEV void gs_load_queries(u32 (&a)[D / 16][4], const float* q, const Place& at, i64 head, i64 token, float scale) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = gs_min(at.row(half), at.rows - 1);
    const float* from = q + row / at.group * token + (at.kv * at.group + row % at.group) * head + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      const float2 v = *(const float2*)(from + i * 8);
      a[i / 2][half + i % 2 * 2] = gs_pack_half(v.x * scale, v.y * scale);
    }
  }
}
// one tile of positions: scores, running softmax, output
template <int DK, int DV, int TILE>
GS_DEV void gs_tile(float (&out)[DV / 8][4], float (&top)[2], float (&sum)[2], const u32 (&q)[DK / 16][4], u8* keys,
                    u8* values, const Sight (&sight)[2], const int2* cells, int first, int end, float cap) {
  const int lane = threadIdx.x % 32;
  float s[TILE / 8][4] = {};
#pragma unroll
  for (int i = 0; i < DK / 16; i++)
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      u32 b[4];
      gs_ldmatrix4(b, gs_piece<DK>(keys, j * 16 + lane % 8 + lane / 16 * 8, i * 2 + lane / 8 % 2));
      gs_mma_half(s[2 * j], q[i], b[0], b[1]);
      gs_mma_half(s[2 * j + 1], q[i], b[2], b[3]);
    }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float up = top[half], add = 0.0f;
#pragma unroll
    for (int i = 0; i < TILE / 4; i++) {
      const int p = first + i / 2 * 8 + lane % 4 * 2 + i % 2;
      float& v = s[i / 2][half * 2 + i % 2];
      if (cap > 0.0f) v = cap * tanhf(v);
      if (p >= end || !gs_sees(sight[half], cells[p])) v = GS_LOWEST;
      up = fmaxf(up, v);
    }
    up = fmaxf(up, gs_shfl_xor(up, 1));
    up = fmaxf(up, gs_shfl_xor(up, 2));
#pragma unroll
    for (int i = 0; i < TILE / 4; i++) {
      float& v = s[i / 2][half * 2 + i % 2];
      v = v == GS_LOWEST ? 0.0f : gs_exp2(v - up);
      add += v;
    }
    const float keep = gs_exp2(top[half] - up);
    top[half] = up, sum[half] = fmaf(sum[half], keep, add);
#pragma unroll
    for (int d = 0; d < DV / 8; d++) out[d][half * 2] *= keep, out[d][half * 2 + 1] *= keep;
  }
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) {
    const u32 p[4] = {gs_pack_half(s[2 * j][0], s[2 * j][1]), gs_pack_half(s[2 * j][2], s[2 * j][3]),
                      gs_pack_half(s[2 * j + 1][0], s[2 * j + 1][1]), gs_pack_half(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
    for (int d = 0; d < DV / 16; d++) {
      u32 b[4];
      gs_ldmatrix4_t(b, gs_piece<DV>(values, j * 16 + lane % 16, d * 2 + lane / 16));
      gs_mma_half(out[2 * d], p, b[0], b[1]);
      gs_mma_half(out[2 * d + 1], p, b[2], b[3]);
    }
  }
}
template <int DV>
GS_DEV void gs_write(const float (&out)[DV / 8][4], const float (&top)[2], const float (&sum)[2], float* y,
                     const float* sinks, const Place& at, int heads) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = sum[half], by = 1.0f;
    total += gs_shfl_xor(total, 1);
    total += gs_shfl_xor(total, 2);
    const int row = at.row(half), head = at.kv * at.group + row % at.group;
    if (row >= at.rows) continue;
    if (sinks) {  // a logit without a value
      const float sink = sinks[head] * 1.44269504f, up = fmaxf(sink, top[half]);
      by = gs_exp2(top[half] - up), total = fmaf(total, by, gs_exp2(sink - up));
    }
    by = total > 0.0f ? by / total : 0.0f;
    float* to = y + ((i64)(row / at.group) * heads + head) * DV + threadIdx.x % 4 * 2;
#pragma unroll
    for (int d = 0; d < DV / 8; d++)
      *(float2*)(to + d * 8) = make_float2(out[d][half * 2] * by, out[d][half * 2 + 1] * by);
  }
}

// grid (ceil(tokens * group / 64), kv_heads); dynamic shared memory 2 * TILE * (DK + DV) * 2 bytes
template <int DK, int DV, int TILE>
GS_DEV void gs_prompt(const float* q, const u16* k, const u16* v, const Mask& mask, const float* sinks, float* y,
                      int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos, i64 v_head, i64 q_head,
                      i64 q_token, float scale, float cap) {
  constexpr int KEYS = TILE * DK * 2, STAGE = KEYS + TILE * DV * 2;
  GS_DYNAMIC(u8, shared);
  gs_pdl_launch();
  gs_pdl_wait();
  const int group = heads / kv_heads, block0 = blockIdx.x * GS_ROWS_OF_BLOCK;
  const Place at = {(int)blockIdx.y, group, tokens * group, block0 + (int)threadIdx.x / 32 * 16};
  Sight sight[2];
#pragma unroll
  for (int half = 0; half < 2; half++) sight[half] = gs_sight(mask, gs_min(at.row(half), at.rows - 1) / group);
  const int begin = 0, end = *mask.length;
  u32 queries[DK / 16][4];
  gs_load_queries<DK>(queries, q, at, q_head, q_token, scale);
  float out[DV / 8][4] = {}, top[2] = {GS_LOWEST, GS_LOWEST}, sum[2] = {0.0f, 0.0f};
  const u16 *keys = k + at.kv * k_head, *values = v + at.kv * v_head;
  if (begin < end) {
    gs_load_tile<DK, TILE>(shared, keys, k_pos, begin, end);
    gs_load_tile<DV, TILE>(shared + KEYS, values, v_pos, begin, end);
  }
  gs_copy_commit();
  for (int first = begin, now = 0; first < end; first += TILE, now ^= 1) {
    u8 *tile = shared + now * STAGE, *next = shared + (now ^ 1) * STAGE;
    if (first + TILE < end) {
      gs_load_tile<DK, TILE>(next, keys, k_pos, first + TILE, end);
      gs_load_tile<DV, TILE>(next + KEYS, values, v_pos, first + TILE, end);
    }
    gs_copy_commit();
    gs_copy_wait<1>();
    gs_sync();
    gs_tile<DK, DV, TILE>(out, top, sum, queries, tile, tile + KEYS, sight, mask.cells, first, end, cap);
    gs_sync();  // before the next round overwrites this tile
  }
  gs_write<DV>(out, top, sum, y, sinks, at, heads);
}

// the parameters of the kernels below as arguments of gs_prompt
#define GS_PROMPT_ARGS                                                                                       \
  q, k, v, Mask{where, cells, length, window, span}, sinks, y, tokens, heads, kv_heads, k_pos, k_head, v_pos, \
      v_head, q_head, q_token, scale, cap

extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_64_64(const float* q, const u16* k, const u16* v, const int2* where, const int2* cells, const int* length,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span) {
  gs_prompt<64, 64, 64>(GS_PROMPT_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_128_128(const float* q, const u16* k, const u16* v, const int2* where, const int2* cells, const int* length,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span) {
  gs_prompt<128, 128, 64>(GS_PROMPT_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_192_128(const float* q, const u16* k, const u16* v, const int2* where, const int2* cells, const int* length,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span) {
  gs_prompt<192, 128, 32>(GS_PROMPT_ARGS);
}

// The cells in use of a cache in blocks, as halves for the kernels above: y[cell, head] dense, strides of x in bytes; a
// thread takes 8 elements. Grid (ceil(cells * heads * k / 8 / threads))
template <class T>
GS_DEV void gs_halves(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / (k / 8), cell = row / heads;
  if (cell >= *length) return;
  const typename T::Raw raw = T::load(x + cell * x_cell + row % heads * x_head, i % (k / 8) * 8, 8);
  u32 v[4];
#pragma unroll
  for (int j = 0; j < 4; j++) v[j] = gs_pack_half(T::value(raw, 2 * j), T::value(raw, 2 * j + 1));
  y[i] = make_uint4(v[0], v[1], v[2], v[3]);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q80(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q80>(x, y, length, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q40(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q40>(x, y, length, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q51(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q51>(x, y, length, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_iq4nl(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<iq4nl>(x, y, length, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q8kv(const u8* x, uint4* y, const int* length, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q8kv>(x, y, length, heads, k, x_cell, x_head);
}
