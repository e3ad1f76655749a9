// Unfused attention (-fa 0): scores of queries with keys, their softmax over the cells that a token sees, sums of
// values. Keys and values are views of a cache or results of this run; the number of cells in use is read from device
// memory.
#include "cache.cuh"
#include "mask.cuh"

struct Product {  // strides of x in floats, of w in bytes; rows of y are n apart
  const float* x;
  const u8* w;
  float* y;
  int tokens, heads, kv_heads, n, k;
  i64 x_token, x_head, w_head, w_n, w_k;
};
// A block computes a tile of BM rows × BN columns in slices of BK elements of k with TX × TY threads; each thread has
// every TX-th column of BM / TY rows.
template <int M, int N, int K, int X, int Y> struct Tile {
  enum { BM = M, BN = N, BK = K, TX = X, TY = Y, THREADS = X * Y };
};
typedef Tile<64, 64, 32, 16, 16> Many;
typedef Tile<8, 64, 32, 64, 4> FewRows;       // columns are cells
typedef Tile<8, 16, 128, 16, 8> FewColumns;  // k are cells: more blocks, with longer slices

// y[t, h, n] = sum_k x[t, h, k] * w[h / G, n, k], where G = heads / kv_heads query heads share a matrix. ALONG_K:
// elements of w that are neighbours in memory are neighbours in k, else in n. Rows of a tile are (t, h of one matrix);
// sums run through k in order, whatever the tile. Grid (ceil(tokens * G / BM), ceil(n / BN), kv_heads)
template <class T, bool ALONG_K, class S>
GS_DEV void gs_product_of_views(const Product& p, const int* n_used, const int* k_used) {
  constexpr int RM = S::BM / S::TY, RN = S::BN / S::TX;
  constexpr int XN = S::BM * S::BK / S::THREADS, WN = S::BN * S::BK / S::THREADS;
  GS_SHARED(float, xs, S::BK * (S::BM + 1));
  GS_SHARED(float, ws, S::BK * (S::BN + 1));
  gs_pdl_launch();
  gs_pdl_wait();
  const int n = n_used ? gs_min(*n_used, p.n) : p.n, k = k_used ? gs_min(*k_used, p.k) : p.k;
  const int group = p.heads / p.kv_heads, rows = p.tokens * group, kv = blockIdx.z;
  const int m0 = blockIdx.x * S::BM, n0 = blockIdx.y * S::BN, tx = threadIdx.x % S::TX, ty = threadIdx.x / S::TX;
  if (n0 >= n) return;
  const u8* w = p.w + kv * p.w_head;
  float acc[RM][RN] = {}, x_ahead[XN], w_ahead[WN];
  const auto fetch = [&](int k0) {  // the next slice; cells behind those in use may hold anything
#pragma unroll
    for (int j = 0; j < XN; j++) {
      const int i = j * S::THREADS + threadIdx.x, row = m0 + i / S::BK, at = k0 + i % S::BK;
      const i64 from = row / group * p.x_token + (kv * group + row % group) * p.x_head + at;
      x_ahead[j] = row < rows && at < k ? p.x[from] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < WN; j++) {
      const int i = j * S::THREADS + threadIdx.x;
      const int c = n0 + (ALONG_K ? i / S::BK : i % S::BN), r = k0 + (ALONG_K ? i % S::BK : i / S::BN);
      w_ahead[j] = 0.0f;
      if (c < n && r < k) w_ahead[j] = ALONG_K ? T::at(w + c * p.w_n, r, p.w_k) : T::at(w + r * p.w_k, c, p.w_n);
    }
  };
  fetch(0);
  for (int k0 = 0; k0 < k; k0 += S::BK) {
#pragma unroll
    for (int j = 0; j < XN; j++) {
      const int i = j * S::THREADS + threadIdx.x;
      xs[i % S::BK * (S::BM + 1) + i / S::BK] = x_ahead[j];
    }
#pragma unroll
    for (int j = 0; j < WN; j++) {
      const int i = j * S::THREADS + threadIdx.x;
      ws[ALONG_K ? i % S::BK * (S::BN + 1) + i / S::BK : i / S::BN * (S::BN + 1) + i % S::BN] = w_ahead[j];
    }
    gs_sync();
    if (k0 + S::BK < k) fetch(k0 + S::BK);  // arrives while this one is multiplied
#pragma unroll 8
    for (int r = 0; r < S::BK; r++) {
      float a[RM], b[RN];
#pragma unroll
      for (int i = 0; i < RM; i++) a[i] = xs[r * (S::BM + 1) + ty * RM + i];
#pragma unroll
      for (int j = 0; j < RN; j++) b[j] = ws[r * (S::BN + 1) + tx + j * S::TX];
#pragma unroll
      for (int i = 0; i < RM; i++)
#pragma unroll
        for (int j = 0; j < RN; j++) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
    }
    gs_sync();  // before the next slice
  }
#pragma unroll
  for (int i = 0; i < RM; i++) {
    const int row = m0 + ty * RM + i;
    if (row >= rows) break;
    float* to = p.y + ((i64)(row / group) * p.heads + kv * group + row % group) * p.n;
#pragma unroll
    for (int j = 0; j < RN; j++)
      if (n0 + tx + j * S::TX < n) to[n0 + tx + j * S::TX] = acc[i][j];
  }
}

GS_DEV float gs_block_max(float v) {
  GS_SHARED(float, most, 32);
  v = gs_warp_max(v);
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = v;
  gs_sync();
  return gs_warp_max(most[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0]);
}
// The softmax of scale * x, with a cap of cap * tanh(scale * x), over the cells in use that a token sees. Cells are
// (slot of their sequence, position); a free one has slot -1. A head's sink
// (null: none) is one more term of the denominator. Without any cell: zeros. y may be x. Rows are n floats apart.
// Grid (tokens * heads)
extern "C" __global__ void __launch_bounds__(256)
    soft_max_seen(const float* x, float* y, const int* where, const int2* cells, const int* used, const float* sinks,
                  int heads, int n, float scale, float cap, int window, int span, float max_bias) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int head = blockIdx.x % heads, length = gs_min(*used, n);
  const Sight sight = gs_sight(Mask{where, window, span, max_bias}, blockIdx.x / heads);
  const float slope = max_bias > 0.0f ? gs_slope(max_bias, head, heads) : 0.0f;
  const float *from = x + (i64)blockIdx.x * n, sink = sinks ? sinks[head] : -3.0e38f;
  float* to = y + (i64)blockIdx.x * n;
  float top = sink, sum = 0.0f;
  for (int i = threadIdx.x; i < length; i += blockDim.x) {
    float s = from[i] * scale;
    if (cap > 0.0f) s = cap * tanhf(s);
    s = fmaf(slope, (float)(cells[i].y - sight.last), s);
    if (cells[i].x == sight.slot && gs_sees(sight, cells[i].y)) top = fmaxf(top, s);
    to[i] = s;
  }
  top = gs_block_max(top);
  for (int i = threadIdx.x; i < length; i += blockDim.x) {
    const bool seen = cells[i].x == sight.slot && gs_sees(sight, cells[i].y);
    const float e = seen ? expf(to[i] - top) : 0.0f;
    sum += e, to[i] = e;
  }
  sum = gs_block_sum(sum) + (sinks ? expf(sink - top) : 0.0f);
  for (int i = threadIdx.x; i < length; i += blockDim.x) to[i] = sum > 0.0f ? to[i] / sum : 0.0f;
}

// the parameters of the kernels below as a Product
#define GS_PRODUCT {x, w, y, tokens, heads, kv_heads, n, k, x_token, x_head, w_head, w_n, w_k}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(256)
    rows_64_TYPE(const float* x, const u8* w, float* y, const int* n_used, const int* k_used, int tokens, int heads,
                 int kv_heads, int n, int k, i64 x_token, i64 x_head, i64 w_head, i64 w_n, i64 w_k) {
  gs_product_of_views<TYPE, true, Many>(GS_PRODUCT, n_used, k_used);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    rows_8_TYPE(const float* x, const u8* w, float* y, const int* n_used, const int* k_used, int tokens, int heads,
                int kv_heads, int n, int k, i64 x_token, i64 x_head, i64 w_head, i64 w_n, i64 w_k) {
  gs_product_of_views<TYPE, true, FewRows>(GS_PRODUCT, n_used, k_used);
}
extern "C" __global__ void __launch_bounds__(256)
    columns_64_TYPE(const float* x, const u8* w, float* y, const int* n_used, const int* k_used, int tokens, int heads,
                    int kv_heads, int n, int k, i64 x_token, i64 x_head, i64 w_head, i64 w_n, i64 w_k) {
  gs_product_of_views<TYPE, false, Many>(GS_PRODUCT, n_used, k_used);
}
extern "C" __global__ void __launch_bounds__(128)
    columns_8_TYPE(const float* x, const u8* w, float* y, const int* n_used, const int* k_used, int tokens, int heads,
                   int kv_heads, int n, int k, i64 x_token, i64 x_head, i64 w_head, i64 w_n, i64 w_k) {
  gs_product_of_views<TYPE, false, FewColumns>(GS_PRODUCT, n_used, k_used);
}
