// Copies that convert between float types, with any four strides (in elements, innermost last); rows read and written
// by index; caches and weights as floats.
#include "cache.cuh"
#include "quants.cuh"

struct F32 {
  typedef float Cell;
  GS_DEV float get(Cell v) { return v; }
  GS_DEV Cell put(float v) { return v; }
};
struct F16 {
  typedef u16 Cell;
  GS_DEV float get(Cell v) { return gs_half(v); }
  GS_DEV Cell put(float v) { return gs_to_half(v); }
};
struct BF16 {
  typedef u16 Cell;
  GS_DEV float get(Cell v) { return gs_bf16(v); }
  GS_DEV Cell put(float v) { return gs_to_bf16(v); }
};

// grid (n0 * n1, n2, ceil(n3 / threads)): a cache may have more rows than a grid's second and third dimension take
template <class A, class B>
GS_DEV void gs_copy(const typename A::Cell* x, typename B::Cell* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3,
                    i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 i0 = blockIdx.x / n1, i1 = blockIdx.x % n1, i2 = blockIdx.y, i3 = blockIdx.z * blockDim.x + threadIdx.x;
  if (i3 < n3) y[i0 * y0 + i1 * y1 + i2 * y2 + i3 * y3] = B::put(A::get(x[i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3]));
}
// y[ids[t]] = x[t]: writes to a key-value cache; rows whose id is below 0 are skipped. y_stride counts elements, in caches of
// blocks bytes. A second pair (x1, y1), if any, is the other cache of the layer. Grid (ceil(k / threads) of the wider,
// rows, 1 or 2)
template <class Cell> struct Rows {
  const float* x;
  Cell* y;
  int k;
  i64 x_stride, y_stride;
};
#define GS_ROWS_OF(Cell) \
  (blockIdx.z ? Rows<Cell>{x1, y1, k1, x1_stride, y1_stride} : Rows<Cell>{x, y, k, x_stride, y_stride})
template <class B> GS_DEV void gs_set_rows(const Rows<typename B::Cell>& r, const int* ids) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = blockIdx.x * blockDim.x + threadIdx.x, id = ids[blockIdx.y];
  if (i < r.k && id >= 0) r.y[id * r.y_stride + i] = B::put(r.x[blockIdx.y * r.x_stride + i]);
}
// The start of the same for caches in blocks of 32, one block per warp: row r, this lane's element i of it with its value
// v, and the largest magnitude in the block
#define GS_ELEMENT(r)                                                                                          \
  gs_pdl_launch();                                                                                             \
  gs_pdl_wait();                                                                                               \
  const Rows<u8> r = GS_ROWS_OF(u8);                                                                           \
  const int i = blockIdx.x * blockDim.x + threadIdx.x, id = ids[blockIdx.y], lane = threadIdx.x % 32;          \
  const float v = i < r.k ? r.x[blockIdx.y * r.x_stride + i] : 0.0f, most = gs_warp_max(fabsf(v))
extern "C" __global__ void __launch_bounds__(256)
    set_rows_q8_0(const int* ids, const float* x, u8* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                  u8* y1, int k1, i64 x1_stride, i64 y1_stride) {
  GS_ELEMENT(r);
  if (i >= r.k || id < 0) return;
  u8* block = r.y + id * r.y_stride + i / 32 * 34;
  const float q = rintf(v * (most > 0.0f ? 127.0f / most : 0.0f));
  block[2 + lane] = (u8)(i8)q;
  if (lane == 0) *(u16*)block = gs_to_half(most / 127.0f);
}
// The first of the values of largest magnitude in a block
GS_DEV float gs_farthest(float v, float most, int lane) {
  int first = fabsf(v) == most ? lane : 31;
#pragma unroll
  for (int m = 16; m > 0; m /= 2) first = gs_min(first, gs_shfl_xor(first, m));
  return gs_shfl(v, first);
}
// It gets code 0, whose scale makes it exact.
extern "C" __global__ void __launch_bounds__(256)
    set_rows_q4_0(const int* ids, const float* x, u8* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                  u8* y1, int k1, i64 x1_stride, i64 y1_stride) {
  GS_ELEMENT(r);
  const float d = gs_farthest(v, most, lane) / -8.0f, by = d != 0.0f ? 1.0f / d : 0.0f;
  const int code = gs_min((int)(gs_product(v, by) + 8.5f), 15), upper = gs_shfl_xor(code, 16);
  if (i >= r.k || id < 0) return;
  u8* block = r.y + id * r.y_stride + i / 32 * 18;
  if (lane < 16) block[2 + lane] = (u8)(code | upper << 4);
  if (lane == 0) *(u16*)block = gs_to_half(d);
}
// The smallest and the largest value get the outermost codes; the fifth bits of all codes are a word.
extern "C" __global__ void __launch_bounds__(256)
    set_rows_q5_1(const int* ids, const float* x, u8* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                  u8* y1, int k1, i64 x1_stride, i64 y1_stride) {
  GS_ELEMENT(r);
  const float low = -gs_warp_max(-v), d = (gs_warp_max(v) - low) / 31.0f, by = d != 0.0f ? 1.0f / d : 0.0f;
  const int code = gs_min((int)(gs_product(v - low, by) + 0.5f), 31), upper = gs_shfl_xor(code, 16);
  u32 fifth = (u32)(code >> 4) << lane;
#pragma unroll
  for (int m = 16; m > 0; m /= 2) fifth |= gs_shfl_xor(fifth, m);
  if (i >= r.k || id < 0) return;
  u8* block = r.y + id * r.y_stride + i / 32 * 24;
  if (lane < 16) block[8 + lane] = (u8)((code & 15) | (upper & 15) << 4);
  if (lane == 0) ((u16*)block)[0] = gs_to_half(d), ((u16*)block)[1] = gs_to_half(low), *(u32*)(block + 4) = fifth;
}
// Codes with the value of largest magnitude as the outermost, then the scale that fits them best by weights of x².
extern "C" __global__ void __launch_bounds__(256)
    set_rows_iq4_nl(const int* ids, const float* x, u8* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                  u8* y1, int k1, i64 x1_stride, i64 y1_stride) {
  GS_ELEMENT(r);
  const float farthest = gs_farthest(v, most, lane);
  const bool zeros = most < 1e-15f;
  const int code = zeros ? 0 : gs_nearest_iq4(gs_product(v, 1.0f / (farthest / -127.0f))), upper = gs_shfl_xor(code, 16);
  const float value = (float)gs_iq4(code), weighted = v * v * value;
  const float by_value = gs_warp_sum(weighted * v), by_code = gs_warp_sum(weighted * value);
  if (i >= r.k || id < 0) return;
  u8* block = r.y + id * r.y_stride + i / 32 * 18;
  if (lane < 16) block[2 + lane] = (u8)(code | upper << 4);
  if (lane == 0) *(u16*)block = gs_to_half(!zeros && by_code > 0.0f ? by_value / by_code : 0.0f);
}
// Into a cache whose rows have a scale for each head: a warp takes a head of k elements. Grid (heads of the pair that has
// more, rows, 1 or 2)
extern "C" __global__ void __launch_bounds__(32)
    set_rows_q8_kv(const int* ids, const float* x, u8* y, int k, i64 x_stride, i64 y_stride, int heads,
                   const float* x1, u8* y1, int k1, i64 x1_stride, i64 y1_stride, int heads1) {
  gs_pdl_launch();
  gs_pdl_wait();
  const Rows<u8> r = GS_ROWS_OF(u8);
  const int head = blockIdx.x, id = ids[blockIdx.y], lane = threadIdx.x;
  if (head >= (blockIdx.z ? heads1 : heads) || id < 0) return;
  const float* from = r.x + blockIdx.y * r.x_stride + head * r.k;
  u8* to = r.y + id * r.y_stride + head * (r.k + 8);
  float most = 0.0f;
  for (int i = lane; i < r.k; i += 32) most = fmaxf(most, fabsf(from[i]));
  const float d = gs_warp_max(most) / 127.0f, by = d > 0.0f ? 1.0f / d : 0.0f;
  int sum = 0;
  for (int i = lane; i < r.k; i += 32) {
    const int code = (int)rintf(from[i] * by);
    to[8 + i] = (u8)code, sum += code;
  }
#pragma unroll
  for (int m = 16; m > 0; m /= 2) sum += gs_shfl_xor(sum, m);
  if (lane == 0) ((float*)to)[0] = d, ((int*)to)[1] = sum;
}
// y[t, u] = x[t, ids[t, u]]: chosen rows (k = 1: elements) of each token. Grid (ceil(k / threads), used, tokens)
extern "C" __global__ void __launch_bounds__(256)
    choose(const float* x, const int* ids, float* y, int n, int k, i64 x_token, i64 x_row) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= k) return;
  const i64 to = (i64)blockIdx.z * gridDim.y + blockIdx.y;
  const int id = ids[to];
  y[to * k + i] = id >= 0 && id < n ? x[blockIdx.z * x_token + id * x_row + i] : 0.0f;
}
// Mapped host memory → device memory, in pieces of 16 bytes: *rows rows. Grid (blocks)
extern "C" __global__ void __launch_bounds__(256) fetch_rows(const uint4* x, uint4* y, i64 row_bytes, const int* rows) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 nbytes = *rows * row_bytes, last = nbytes / 16;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < last; i += (i64)gridDim.x * blockDim.x) y[i] = x[i];
  const i64 rest = last * 16 + threadIdx.x;
  if (blockIdx.x == 0 && rest < nbytes) ((u8*)y)[rest] = ((const u8*)x)[rest];
}
// The experts named by ids, from mapped host memory; other experts of y are left as they are. Grid (blocks, n_expert)
extern "C" __global__ void __launch_bounds__(256)
    fetch_experts(const uint4* x, uint4* y, const int* ids, int n_ids, i64 pieces) {
  gs_pdl_launch();
  gs_pdl_wait();
  GS_SHARED(int, used, 1);
  if (threadIdx.x == 0) used[0] = 0;
  gs_sync();
  for (int i = threadIdx.x; i < n_ids; i += blockDim.x)
    if (ids[i] == (int)blockIdx.y) used[0] = 1;
  gs_sync();
  if (!used[0]) return;
  const i64 first = blockIdx.y * pieces;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < pieces; i += (i64)gridDim.x * blockDim.x)
    y[first + i] = x[first + i];
}
// y[t, h] = x[ids[t], h] as floats, y dense, strides of x in bytes: rows of a cache or embeddings; null ids: all rows. A
// row outside of x is zeros. Grid (n, heads, ceil(k / threads)): there may be more rows than its other dimensions take
template <class T> GS_DEV void gs_get_rows(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = blockIdx.z * blockDim.x + threadIdx.x, row = ids ? ids[blockIdx.x] : (int)blockIdx.x;
  if (i >= k) return;
  const bool valid = row >= 0 && row < rows;
  y[((i64)blockIdx.x * gridDim.y + blockIdx.y) * k + i] =
      valid ? T::at(x + row * x_row + blockIdx.y * x_head, i, T::SIZE) : 0.0f;
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_f32(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<f32>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_f16(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<f16>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_bf16(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<bf16>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_q8_0(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<q80>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_q4_0(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<q40>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_q5_1(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<q51>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_iq4_nl(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<iq4nl>(x, ids, y, rows, k, x_row, x_head);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_q8_kv(const u8* x, const int* ids, float* y, int rows, int k, i64 x_row, i64 x_head) {
  gs_get_rows<q8kv>(x, ids, y, rows, k, x_row, x_head);
}
// y[to[r]] = y[from[r]], rows of bytes; none is both. Grid (blocks, rows)
template <class Unit> GS_DEV void gs_copy_row(const u8* x, u8* y, i64 row_bytes) {
  const i64 n = row_bytes / (i64)sizeof(Unit);
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
    ((Unit*)y)[i] = ((const Unit*)x)[i];
}
extern "C" __global__ void __launch_bounds__(256) copy_rows(u8* y, const int* from, const int* to, i64 row_bytes) {
  gs_pdl_launch();
  gs_pdl_wait();
  const u8* const source = y + from[blockIdx.y] * row_bytes;
  u8* const target = y + to[blockIdx.y] * row_bytes;
  if (row_bytes % 16 == 0) gs_copy_row<uint4>(source, target, row_bytes);
  else if (row_bytes % 4 == 0) gs_copy_row<u32>(source, target, row_bytes);
  else gs_copy_row<u8>(source, target, row_bytes);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_f32(const float* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1,
                 i64 y2, i64 y3) {
  gs_copy<F32, F32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_f16(const float* x, u16* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1,
                 i64 y2, i64 y3) {
  gs_copy<F32, F16>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_bf16(const float* x, u16* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1,
                  i64 y2, i64 y3) {
  gs_copy<F32, BF16>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f16_f32(const u16* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1,
                 i64 y2, i64 y3) {
  gs_copy<F16, F32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_bf16_f32(const u16* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1,
                  i64 y2, i64 y3) {
  gs_copy<BF16, F32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    set_rows_f32(const int* ids, const float* x, float* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                 float* y1, int k1, i64 x1_stride, i64 y1_stride) {
  gs_set_rows<F32>(GS_ROWS_OF(float), ids);
}
extern "C" __global__ void __launch_bounds__(256)
    set_rows_f16(const int* ids, const float* x, u16* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                 u16* y1, int k1, i64 x1_stride, i64 y1_stride) {
  gs_set_rows<F16>(GS_ROWS_OF(u16), ids);
}
extern "C" __global__ void __launch_bounds__(256)
    set_rows_bf16(const int* ids, const float* x, u16* y, int k, i64 x_stride, i64 y_stride, const float* x1,
                 u16* y1, int k1, i64 x1_stride, i64 y1_stride) {
  gs_set_rows<BF16>(GS_ROWS_OF(u16), ids);
}

//@ for TYPE
// GET_ROWS: row which[i] of the weights becomes row i of y. A thread takes a step, N units of 32 weights.
// Grid (ceil(units / N / threads), rows)
extern "C" __global__ void __launch_bounds__(128)
    to_f32_TYPE(const u8* w, float* y, const int* which, int rows, int k) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int units = k / 32, step = blockIdx.x * blockDim.x + threadIdx.x, row = which[blockIdx.y];
  if (step >= units / TYPE::N || row < 0 || row >= rows) return;
  const TYPE::Raw raw = gs_step<TYPE>(gs_row<TYPE>(w, rows, units, row), step);
#pragma unroll
  for (int n = 0; n < TYPE::N; n++) {
    Unit u;
    TYPE::unpack(raw, n, step, u);
    float* to = y + (i64)blockIdx.y * k + (step * TYPE::N + n) * 32;
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const float v = (float)(i8)(u.v[i / 4] >> (8 * (i % 4)));
      to[i] = TYPE::MIN ? fmaf(u.d[i / 16], v, u.m[i / 16]) : u.d[i / 16] * v;
    }
  }
}
