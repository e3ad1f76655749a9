// W2A8: ternary weights in two bits × activations in eight bits with one scale per token. Sums are integers until the
// last step, y = sum * scale of the row * d, so the bits do not depend on the grid, the split of K or the number of
// tokens.
//
// Weights (packed by packing/kernels.py; docs/decisions/0004-w2a8.md) are tiles of 16 rows × 128 columns, 512 bytes
// each; the tiles of the same 16 rows lie one after the other. Lane l of the warp that reads a tile gets 16 bytes:
// words 0 and 2 are of row l/4, words 1 and 3 of row l/4 + 8; words 0 and 1 have columns 16(l%4) to 16(l%4) + 15, words
// 2 and 3 the same columns + 64. Bits 8b + 2f of a word hold column 4f + b of the sixteen. Codes 0, 1, 2 stand for -1,
// 0, 1: each is one too large, so sum(q) is subtracted at the end.
#include "norm.cuh"

enum { GS_TILE = 512, GS_TILE_K = 128, GS_TILE_ROWS = 16, GS_AHEAD = 4, GS_WARPS = 8 };
GS_DEV const u8* gs_tiles(const u8* w, int row_tile, int rows, int k) {  // past the last tile: that one
  const int steps = gs_ceil_div(k, GS_TILE_K), last = gs_ceil_div(rows, GS_TILE_ROWS) - 1;
  return w + (i64)gs_min(row_tile, last) * steps * GS_TILE + threadIdx.x % 32 * 16;
}
GS_DEV const i8* gs_columns(const i8* q8, int token, int tokens, int k) {  // what this lane multiplies in step 0
  return q8 + (i64)gs_min(token, tokens - 1) * gs_ceil_div(k, GS_TILE_K) * GS_TILE_K + threadIdx.x % 4 * 16;
}

// Up to three matrices that multiply one x in one launch; unused ones have no rows. A block works on one matrix. The
// first `skip` rows of the first matrix are read but not written: a range of rows may start within a tile.
struct Matrix {
  const u8* w;
  const float* scale;
  float* y;
  int rows, skip;
  __device__ __forceinline__ void put(int token, int row, int sum, float2 d, float by) const {
    if (row >= skip && row < rows) y[(i64)token * (rows - skip) + row - skip] = (float)(sum - (int)d.y) * by * d.x;
  }
};
// the parameters of a kernel as such matrices
#define GS_MATRICES {{w, scale, y, rows, skip}, {w1, scale1, y1, rows1, 0}, {w2, scale2, y2, rows2, 0}}
// the matrix that `block` works on, in blocks of `rows`; `block` becomes its number within that matrix
GS_DEV Matrix gs_matrix(const Matrix (&all)[3], int rows, int& block) {
  const int first = gs_ceil_div(all[0].rows, rows), second = first + gs_ceil_div(all[1].rows, rows);
  const Matrix m = block < first ? all[0] : block < second ? all[1] : all[2];
  block -= block < first ? 0 : block < second ? first : second;
  return m;
}

// NT tokens by dp4a: sums of rows l/4 and l/4 + 8. Odd fields are not shifted down; they are four times too large and
// have sums of their own.
template <int NT> struct Dots {
  enum { TOKENS = NT };
  const i8* x[NT];
  int even[NT][2], odd[NT][2];
  __device__ __forceinline__ Dots(const i8* q8, int tokens, int k) {
#pragma unroll
    for (int t = 0; t < NT; t++) {
      x[t] = gs_columns(q8, t, tokens, k);
      even[t][0] = even[t][1] = odd[t][0] = odd[t][1] = 0;
    }
  }
  __device__ __forceinline__ void dot(u32 w, const uint4& a, int t, int i) {  // 16 × 16
    even[t][i] = gs_dp4a(w & 0x03030303, a.x, even[t][i]);
    odd[t][i] = gs_dp4a(w & 0x0c0c0c0c, a.y, odd[t][i]);
    even[t][i] = gs_dp4a(w >> 4 & 0x03030303, a.z, even[t][i]);
    odd[t][i] = gs_dp4a(w >> 4 & 0x0c0c0c0c, a.w, odd[t][i]);
  }
  __device__ __forceinline__ void add(const uint4& w, int step) {
#pragma unroll
    for (int t = 0; t < NT; t++) {
      const uint4 lo = *(const uint4*)(x[t] + step * GS_TILE_K), hi = *(const uint4*)(x[t] + step * GS_TILE_K + 64);
      dot(w.x, lo, t, 0), dot(w.y, lo, t, 1), dot(w.z, hi, t, 0), dot(w.w, hi, t, 1);
    }
  }
  __device__ __forceinline__ void put(int* sums) const {  // [token][row]
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < NT * 2; i++) {
      int v = even[i / 2][i % 2] + odd[i / 2][i % 2] / 4;  // no remainder
      v += gs_shfl_xor(v, 1);
      v += gs_shfl_xor(v, 2);
      if (lane % 4 == 0) sums[i / 2 * GS_TILE_ROWS + i % 2 * 8 + lane / 4] = v;
    }
  }
};

// half a tile's columns as two m16n8k32 products: `low` is a word of row l/4, `high` of row l/4 + 8
GS_DEV void gs_fragments(u32 low, u32 high, u32 (&a)[2][4]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    a[i][0] = low >> (4 * i) & 0x03030303, a[i][1] = high >> (4 * i) & 0x03030303;
    a[i][2] = low >> (4 * i + 2) & 0x03030303, a[i][3] = high >> (4 * i + 2) & 0x03030303;
  }
}

// 8 NB tokens on the tensor cores: the tile's rows are the rows of the product, tokens its columns
template <int NB> struct Products {
  enum { TOKENS = 8 * NB };
  const i8* x[NB];
  int acc[NB][4];
  __device__ __forceinline__ Products(const i8* q8, int tokens, int k) {
#pragma unroll
    for (int b = 0; b < NB; b++) {
      x[b] = gs_columns(q8, b * 8 + threadIdx.x % 32 / 4, tokens, k);
      acc[b][0] = acc[b][1] = acc[b][2] = acc[b][3] = 0;
    }
  }
  __device__ __forceinline__ void add(const uint4& w, int step) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 a[2][4];
      gs_fragments(half ? w.z : w.x, half ? w.w : w.y, a);
#pragma unroll
      for (int b = 0; b < NB; b++) {
        const uint4 v = *(const uint4*)(x[b] + step * GS_TILE_K + half * 64);
        gs_mma_int8(acc[b], a[0], v.x, v.y);
        gs_mma_int8(acc[b], a[1], v.z, v.w);
      }
    }
  }
  __device__ __forceinline__ void put(int* sums) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < NB * 4; i++)
      sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * GS_TILE_ROWS + i % 4 / 2 * 8 + lane / 4] = acc[i / 4][i % 4];
  }
};

// A block of 8 warps takes 8 / split tiles of rows, and `split` warps share the columns of a tile. Grid: for each
// matrix ceil(row tiles / (8 / split)) blocks
template <class Sums>
GS_DEV void gs_w2a8(const Matrix (&all)[3], const i8* q8, const float2* ds, int tokens, int k, int split) {
  int block = blockIdx.x;
  const Matrix m = gs_matrix(all, GS_WARPS / split * GS_TILE_ROWS, block);
  const int warp = threadIdx.x / 32, slice = warp % split, steps = gs_ceil_div(k, GS_TILE_K);
  const int row_tile = block * (GS_WARPS / split) + warp / split, ahead = split * GS_AHEAD;
  const u8* tiles = gs_tiles(m.w, row_tile, m.rows, k);
  uint4 next[GS_AHEAD];
#pragma unroll
  for (int u = 0; u < GS_AHEAD; u++)
    if (slice + u * split < steps) next[u] = gs_weights16(tiles + (slice + u * split) * GS_TILE);
  gs_pdl_launch();
  gs_pdl_wait();  // the first weights are on their way while the kernel before still runs
  Sums sums(q8, tokens, k);
  for (int s0 = slice; s0 < steps; s0 += ahead) {
#pragma unroll
    for (int u = 0; u < GS_AHEAD; u++) {
      const int s = s0 + u * split;
      if (s >= steps) break;
      const uint4 now = next[u];
      if (s + ahead < steps) next[u] = gs_weights16(tiles + (s + ahead) * GS_TILE);
      sums.add(now, s);
    }
  }
  enum { ALL = Sums::TOKENS * GS_TILE_ROWS };
  GS_SHARED(int, partials, GS_WARPS * ALL);
  sums.put(partials + warp * ALL);
  gs_sync();
  if (slice) return;
  for (int i = threadIdx.x % 32; i < ALL; i += 32) {
    const int t = i / GS_TILE_ROWS, row = row_tile * GS_TILE_ROWS + i % GS_TILE_ROWS;
    if (t >= tokens || row >= m.rows) continue;
    int sum = 0;
    for (int p = 0; p < split; p++) sum += partials[(warp + p) * ALL + i];
    m.put(t, row, sum, ds[t], m.scale[row]);
  }
}

// ---- prompts: 128 rows × 128 tokens per block, 32 × 64 per warp. Weights go from global memory straight into the
// registers of the products; activations go through shared memory, three slices of 128 columns. Odd rows of a slice
// have their 64-byte halves swapped, so that the eight lanes of a read, two tokens × four pieces, touch every bank
// once.

enum { GS_BLOCK = 128, GS_SLICES = 3, GS_SLICE = GS_BLOCK * GS_TILE_K };
GS_DEV u8* gs_piece(u8* slice, int row, int piece) { return slice + row * GS_TILE_K + (piece ^ row % 2 * 4) * 16; }
GS_DEV void gs_load_slice(u8* slice, const i8* q8, int token0, int tokens, int step, int steps) {
#pragma unroll
  for (int i = 0; i < GS_BLOCK * 8 / 256; i++) {
    const int at = i * 256 + threadIdx.x, r = at / 8, c = at % 8;
    const bool valid = token0 + r < tokens && step < steps;
    gs_copy16(gs_piece(slice, r, c), valid ? q8 + ((i64)(token0 + r) * steps + step) * GS_TILE_K + c * 16 : q8, valid);
  }
  gs_copy_commit();
}
GS_DEV void gs_multiply(int (&acc)[2][8][4], const uint4 (&w)[2], u8* slice, int token) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 a[2][2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) gs_fragments(half ? w[i].z : w[i].x, half ? w[i].w : w[i].y, a[i]);
#pragma unroll
    for (int b = 0; b < 8; b++) {
      const uint4 v = *(const uint4*)gs_piece(slice, token + b * 8 + lane / 4, lane % 4 + half * 4);
#pragma unroll
      for (int i = 0; i < 2; i++) gs_mma_int8(acc[i][b], a[i][0], v.x, v.y), gs_mma_int8(acc[i][b], a[i][1], v.z, v.w);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1)
    w2a8_prompt(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
                int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
                const float2* ds, int tokens, int k) {
  const Matrix all[3] = GS_MATRICES;
  GS_SHARED(u8, slices, GS_SLICES * GS_SLICE);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = gs_ceil_div(k, GS_TILE_K);
  int block = blockIdx.y;
  const Matrix m = gs_matrix(all, GS_BLOCK, block);
  const int token0 = blockIdx.x * GS_BLOCK, token = warp % 2 * 64, row0 = block * GS_BLOCK + warp / 2 * 32;
  const u8* const tiles[2] = {gs_tiles(m.w, row0 / 16, m.rows, k), gs_tiles(m.w, row0 / 16 + 1, m.rows, k)};
  uint4 next[2] = {gs_weights16(tiles[0]), gs_weights16(tiles[1])};
  gs_pdl_launch();
  gs_pdl_wait();
  int acc[2][8][4] = {};
  for (int s = 0; s < GS_SLICES - 1; s++) gs_load_slice(slices + s * GS_SLICE, q8, token0, tokens, s, steps);
  for (int s = 0; s < steps; s++) {
    const uint4 now[2] = {next[0], next[1]};
    if (s + 1 < steps)
      next[0] = gs_weights16(tiles[0] + (s + 1) * GS_TILE), next[1] = gs_weights16(tiles[1] + (s + 1) * GS_TILE);
    gs_copy_wait<GS_SLICES - 2>();
    gs_sync();  // slice s is complete, and the one before it is read no more
    const int then = s + GS_SLICES - 1;
    gs_load_slice(slices + then % GS_SLICES * GS_SLICE, q8, token0, tokens, then, steps);
    gs_multiply(acc, now, slices + s % GS_SLICES * GS_SLICE, token);
  }
  float by[4];
#pragma unroll
  for (int r = 0; r < 4; r++) by[r] = m.scale[gs_min(row0 + r * 8 + lane / 4, m.rows - 1)];
#pragma unroll
  for (int j = 0; j < 16; j++) {
    const int t = token0 + token + j / 2 * 8 + lane % 4 * 2 + j % 2;
    const float2 d = ds[gs_min(t, tokens - 1)];
#pragma unroll
    for (int r = 0; r < 4; r++)
      if (t < tokens) m.put(t, row0 + r * 8 + lane / 4, acc[r / 2][j / 2][r % 2 * 2 + j % 2], d, by[r]);
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    w2a8_1(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
           int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
           const float2* ds, int tokens, int k, int split) {
  const Matrix all[3] = GS_MATRICES;
  gs_w2a8<Dots<1>>(all, q8, ds, tokens, k, split);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    w2a8_2(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
           int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
           const float2* ds, int tokens, int k, int split) {
  const Matrix all[3] = GS_MATRICES;
  gs_w2a8<Dots<2>>(all, q8, ds, tokens, k, split);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    w2a8_4(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
           int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
           const float2* ds, int tokens, int k, int split) {
  const Matrix all[3] = GS_MATRICES;
  gs_w2a8<Dots<4>>(all, q8, ds, tokens, k, split);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    w2a8_8(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
           int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
           const float2* ds, int tokens, int k, int split) {
  const Matrix all[3] = GS_MATRICES;
  gs_w2a8<Products<1>>(all, q8, ds, tokens, k, split);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    w2a8_16(const u8* w, const float* scale, float* y, int rows, const u8* w1, const float* scale1, float* y1,
            int rows1, const u8* w2, const float* scale2, float* y2, int rows2, int skip, const i8* q8,
            const float2* ds, int tokens, int k, int split) {
  const Matrix all[3] = GS_MATRICES;
  gs_w2a8<Products<2>>(all, q8, ds, tokens, k, split);
}

// y[i] = row which[i], as floats: GET_ROWS. A row outside the matrix is zeros. Grid (ceil(k / (16 threads)), n)
extern "C" __global__ void __launch_bounds__(128)
    w2a8_rows(const u8* w, const float* scale, const int* which, float* y, int rows, int k) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int first = (blockIdx.x * blockDim.x + threadIdx.x) * 16, row = which[blockIdx.y], c = first % GS_TILE_K;
  if (first >= k) return;
  const bool valid = row >= 0 && row < rows;
  const int r = valid ? row : 0;
  const i64 tile = (i64)(r / GS_TILE_ROWS) * gs_ceil_div(k, GS_TILE_K) + first / GS_TILE_K;
  const u8* lane = w + tile * GS_TILE + (r % 8 * 4 + c % 64 / 16) * 16;
  const u32 word = gs_weights4(lane + (c / 64 * 2 + r % GS_TILE_ROWS / 8) * 4);
  float* to = y + (i64)blockIdx.y * k + first;
  for (int i = 0; i < gs_min(16, k - first); i++)
    to[i] = valid ? (float)((int)(word >> (8 * (i % 4) + 2 * (i / 4)) & 3) - 1) * scale[r] : 0.0f;
}

// ---- activations: one scale per token, d = max |x| / 127, as on the CPU; ds = (d, sum of q). Rows of q are padded
// with zeros to whole tiles of 128. With w, x / rms(x) * w is quantised instead of x. Grid (tokens)

GS_DEV float gs_block_max(float v) {
  GS_SHARED(float, partials, 32);
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = gs_warp_max(v);
  if (lane == 0) partials[threadIdx.x / 32] = v;
  gs_sync();
  return gs_warp_max(lane < warps ? partials[lane] : 0.0f);
}

// y, if not null, takes the normed row as floats. With r, the row is z = x + r, which is stored, too
extern "C" __global__ void __launch_bounds__(1024)
    quantize_token(const float* x, const float* r, float* z, const float* w, float* y, i8* q8, float2* ds, int k,
                   i64 x_stride, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* row = gs_stream(x, r, z, k, x_stride);
  const bool whole = gs_whole(row, k);
  const int first = threadIdx.x * 4, stride = blockDim.x * 4, padded = gs_ceil_div(k, GS_TILE_K) * GS_TILE_K;
  const float scale = w ? gs_rms(row, k, eps) : 1.0f;
  float amax = 0.0f, sum = 0.0f;
  for (int i = first; i < k; i += stride) {
    const float4 v = w ? gs_normed(row, w, i, k, whole, scale) : gs_four(row, i, k, whole);
    if (y) *(float4*)(y + (i64)blockIdx.x * k + i) = v;
    amax = fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
  }
  const float d8 = gs_block_max(amax) / 127.0f, by = d8 > 0.0f ? 1.0f / d8 : 0.0f;
  for (int i = first; i < padded; i += stride) {
    float4 v = make_float4(0, 0, 0, 0);
    if (i < k) v = w ? gs_normed(row, w, i, k, whole, scale) : gs_four(row, i, k, whole);
    const int a = (int)rintf(v.x * by), b = (int)rintf(v.y * by), c = (int)rintf(v.z * by), d = (int)rintf(v.w * by);
    sum += (float)(a + b + c + d);  // integers below 2^24: exact in any order
    *(u32*)(q8 + (i64)blockIdx.x * padded + i) = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | (u32)d << 24;
  }
  sum = gs_block_sum(sum);
  if (threadIdx.x == 0) ds[blockIdx.x] = make_float2(d8, sum);
}
