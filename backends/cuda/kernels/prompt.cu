// Attention of many queries on the tensor cores over an f16 cache: a running softmax over tiles of TILE positions, so
// that nothing of size tokens × positions is stored. A block takes 64 rows of one key-value head; a row is a (token,
// query head) pair with the heads of the group innermost, so that keys and values are read once for all heads that
// share them. Each of the four warps has 16 rows. Queries stay in registers (as halves, scaled), and so do
// probabilities. A block passes over the positions of one sequence; where its rows are of several, other blocks have the
// same rows and take the other sequences. Tiles begin at multiples of TILE, so that bits depend on no other row.
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
struct Pass {  // over the positions that some tokens of one sequence see
  const int* table;
  int token, last_token, begin, end;
  __device__ __forceinline__ bool has(int position) const { return position >= begin && position < end; }
};
// The pass of `token` and of those behind it, up to `last`, that are of its sequence: these are next to each other
GS_DEV Pass gs_pass(const Mask& mask, const int* table, int token, int last) {
  const Sight sight = gs_sight(mask, token);
  for (int low = token, middle = last; low < last; middle = low + (last - low + 1) / 2) {
    if (mask.where[3 * middle] == sight.slot) low = middle;
    else last = middle - 1;
  }
  return {table + sight.entry, token, last, sight.first, mask.where[3 * last + 1] + 1};
}
// The part of it that is of this warp's rows; its end is 0 where none are
GS_DEV Pass gs_of_warp(const Pass& pass, const Mask& mask, const Place& at) {
  const int first = gs_max(pass.token, at.first / at.group);
  const int last = gs_min(pass.last_token, (gs_min(at.first + 16, at.rows) - 1) / at.group);
  if (first > last) return {pass.table, first, last, 0, 0};
  return {pass.table, first, last, gs_sight(mask, first).first, mask.where[3 * last + 1] + 1};
}
template <int N> GS_DEV void gs_look_up(int (&blocks)[N], const Pass& pass, int first) {
#pragma unroll
  for (int i = 0; i < N; i++)
    blocks[i] = pass.table[gs_block_of(gs_min(gs_max(first + i * GS_CELL_BLOCK, pass.begin), pass.end - 1))];
}
template <int D, int TILE>
GS_DEV void gs_load_tile(u8* tile, const u16* from, i64 stride, const int (&blocks)[TILE / GS_CELL_BLOCK],
                         const Pass& pass, int first) {
  constexpr int BLOCKS = TILE / GS_CELL_BLOCK, ROWS = GS_THREADS / (D / 8);  // rows that all threads load at once
  static_assert(BLOCKS == 1 || (GS_THREADS % (D / 8) == 0 && GS_CELL_BLOCK % ROWS == 0), "rows are of one block");
#pragma unroll
  for (int i = 0; i < TILE * D / 8 / GS_THREADS; i++) {
    const int at = i * GS_THREADS + threadIdx.x, r = at / (D / 8), c = at % (D / 8);
    const bool valid = pass.has(first + r);
    const int block = blocks[BLOCKS == 1 ? 0 : i * ROWS / GS_CELL_BLOCK];  // r / GS_CELL_BLOCK, known in advance
    gs_copy16(gs_piece<D>(tile, r, c), valid ? from + gs_cell(block, r) * stride + c * 8 : from, valid);
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
                    u8* values, const Sight (&sight)[2], const float (&slope)[2], int first, float cap) {
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
      v = fmaf(slope[half], (float)(p - sight[half].last), v);
      if (!gs_sees(sight[half], p)) v = GS_LOWEST;
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
                     const float* sinks, const Place& at, int heads, const Pass& pass) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = sum[half], by = 1.0f;
    total += gs_shfl_xor(total, 1);
    total += gs_shfl_xor(total, 2);
    const int row = at.row(half), head = at.kv * at.group + row % at.group;
    if (row >= at.rows || row / at.group < pass.token || row / at.group > pass.last_token) continue;
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

// grid (ceil(tokens * group / 64), kv_heads, sequences of a block or fewer); dynamic shared memory 2 * TILE * (DK + DV) * 2 bytes
template <int DK, int DV, int TILE>
GS_DEV void gs_prompt(const float* q, const u16* k, const u16* v, const int* table, const Mask& mask,
                      const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head,
                      i64 v_pos, i64 v_head, i64 q_head, i64 q_token, float scale, float cap) {
  constexpr int KEYS = TILE * DK * 2, STAGE = KEYS + TILE * DV * 2;
  static_assert(TILE % GS_CELL_BLOCK == 0, "tiles are whole blocks");
  GS_DYNAMIC(u8, shared);
  gs_pdl_launch();
  gs_pdl_wait();
  const int group = heads / kv_heads, block0 = blockIdx.x * GS_ROWS_OF_BLOCK;
  const Place at = {(int)blockIdx.y, group, tokens * group, block0 + (int)threadIdx.x / 32 * 16};
  const int last_token = gs_min(block0 + GS_ROWS_OF_BLOCK, at.rows) - 1;
  Sight sight[2];
#pragma unroll
  for (int half = 0; half < 2; half++) sight[half] = gs_sight(mask, gs_min(at.row(half), at.rows - 1) / group);
  float slope[2] = {0.0f, 0.0f};  // to base 2
  if (mask.max_bias > 0.0f)
#pragma unroll
    for (int half = 0; half < 2; half++)
      slope[half] = 1.44269504f * gs_slope(mask.max_bias, at.kv * group + at.row(half) % group, heads);
  u32 queries[DK / 16][4];
  gs_load_queries<DK>(queries, q, at, q_head, q_token, scale);
  const u16 *keys = k + at.kv * k_head, *values = v + at.kv * v_head;
  for (int token = block0 / group, number = 0; token <= last_token / group; number++) {
    const Pass pass = gs_pass(mask, table, token, last_token / group);
    token = pass.last_token + 1;
    if (number % gridDim.z != blockIdx.z) continue;
    const Pass mine = gs_of_warp(pass, mask, at);
    float out[DV / 8][4] = {}, top[2] = {GS_LOWEST, GS_LOWEST}, sum[2] = {0.0f, 0.0f};
    int first = pass.begin / TILE * TILE, blocks[TILE / GS_CELL_BLOCK];
    if (first < pass.end) {
      gs_look_up(blocks, pass, first);
      gs_load_tile<DK, TILE>(shared, keys, k_pos, blocks, pass, first);
      gs_load_tile<DV, TILE>(shared + KEYS, values, v_pos, blocks, pass, first);
      gs_look_up(blocks, pass, first + TILE);
    }
    gs_copy_commit();
    for (int now = 0; first < pass.end; first += TILE, now ^= 1) {
      u8 *tile = shared + now * STAGE, *next = shared + (now ^ 1) * STAGE;
      if (first + TILE < pass.end) {
        gs_load_tile<DK, TILE>(next, keys, k_pos, blocks, pass, first + TILE);
        gs_load_tile<DV, TILE>(next + KEYS, values, v_pos, blocks, pass, first + TILE);
        gs_look_up(blocks, pass, first + 2 * TILE);
      }
      gs_copy_commit();
      gs_copy_wait<1>();
      gs_sync();
      if (first < mine.end && first + TILE > mine.begin)
        gs_tile<DK, DV, TILE>(out, top, sum, queries, tile, tile + KEYS, sight, slope, first, cap);
      gs_sync();  // before the next round overwrites this tile
    }
    gs_write<DV>(out, top, sum, y, sinks, at, heads, pass);
  }
}

// the parameters of the kernels below as arguments of gs_prompt
#define GS_PROMPT_ARGS                                                                                       \
  q, k, v, table, Mask{where, window, span, max_bias}, sinks, y, tokens, heads, kv_heads, k_pos, k_head, v_pos, \
      v_head, q_head, q_token, scale, cap

extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_64_64(const float* q, const u16* k, const u16* v, const int* where, const int* table,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span,
                 float max_bias) {
  gs_prompt<64, 64, 64>(GS_PROMPT_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_128_128(const float* q, const u16* k, const u16* v, const int* where, const int* table,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span,
                 float max_bias) {
  gs_prompt<128, 128, 64>(GS_PROMPT_ARGS);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    prompt_192_128(const float* q, const u16* k, const u16* v, const int* where, const int* table,
                 const float* sinks, float* y, int tokens, int heads, int kv_heads, i64 k_pos, i64 k_head, i64 v_pos,
                 i64 v_head, i64 q_head, i64 q_token, float scale, float cap, int window, int span,
                 float max_bias) {
  gs_prompt<192, 128, 32>(GS_PROMPT_ARGS);
}

// The cells of the blocks that *used entries of a table name, of a cache of quantised types, as halves for the kernels
// above: y[cell, head] dense, strides of x in bytes; a thread takes 8 elements at once. Any grid (blocks)
template <class T>
GS_DEV void gs_halves(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int of_cell = heads * (k / 8);
  const i64 n = (i64)*used * GS_CELL_BLOCK * of_cell;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const int position = (int)(i / of_cell), at = (int)(i % of_cell);
    const i64 cell = gs_cell(table[gs_block_of(position)], position);
    const typename T::Raw raw = T::load(x + cell * x_cell + at / (k / 8) * x_head, at % (k / 8) * 8, 8);
    u32 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = gs_pack_half(T::value(raw, 2 * j), T::value(raw, 2 * j + 1));
    y[cell * of_cell + at] = make_uint4(v[0], v[1], v[2], v[3]);
  }
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q80(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q80>(x, y, table, used, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q40(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q40>(x, y, table, used, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q51(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q51>(x, y, table, used, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_iq4nl(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<iq4nl>(x, y, table, used, heads, k, x_cell, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    halves_q8kv(const u8* x, uint4* y, const int* table, const int* used, int heads, int k, i64 x_cell, i64 x_head) {
  gs_halves<q8kv>(x, y, table, used, heads, k, x_cell, x_head);
}
