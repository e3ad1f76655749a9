// y[m, n] = sum_k x[m, k] * w[n, k] on the tensor cores with float32 sums: x and w in half or bfloat16 with rows of k
// (a multiple of 8) elements, y float32. A block of 8 warps computes a tile of BM × BN. Tiles of x and w are loaded in
// slices of 64 elements of k, STAGES slices in flight (cp.async). The eight 16-byte pieces of a row of 128 bytes are
// swizzled (piece ^ row % 8), so that neither the copies nor ldmatrix have bank conflicts.
#include "common.cuh"

enum { GS_BK = 64, GS_ROW = GS_BK * 2, GS_THREADS = 256 };

// rows first .. first + ROWS of a matrix [rows, k], slice k0 .. k0 + 63, into shared memory; zeros outside
template <int ROWS> GS_DEV void gs_load_tile(u8* tile, const u16* from, int first, int rows, int k0, int k) {
#pragma unroll
  for (int i = 0; i < ROWS * 8 / GS_THREADS; i++) {
    const int piece = i * GS_THREADS + threadIdx.x, r = piece / 8, c = piece % 8;
    const bool valid = first + r < rows && k0 + c * 8 < k;
    const u16* at = valid ? from + (i64)(first + r) * k + k0 + c * 8 : from;
    gs_copy16(tile + r * GS_ROW + (c ^ r % 8) * 16, at, valid);
  }
}
GS_DEV const u8* gs_piece(const u8* tile, int row, int piece) { return tile + row * GS_ROW + (piece ^ row % 8) * 16; }

struct half_mma {
  GS_DEV void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { gs_mma_half(d, a, b0, b1); }
};
struct bf16_mma {
  GS_DEV void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { gs_mma_bf16(d, a, b0, b1); }
};

// WM × WN: the tile of one warp, whose place in the block's tile is (row0, col0)
template <class T, int WM, int WN>
GS_DEV void gs_multiply(float (&acc)[WM / 16][WN / 8][4], const u8* x, const u8* w, int row0, int col0) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int kk = 0; kk < GS_BK / 16; kk++) {
    u32 a[WM / 16][4], b[WN / 16][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) gs_ldmatrix4(a[i], gs_piece(x, row0 + i * 16 + lane % 16, kk * 2 + lane / 16));
#pragma unroll
    for (int j = 0; j < WN / 16; j++)
      gs_ldmatrix4(b[j], gs_piece(w, col0 + j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++) T::mma(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  }
}
template <int WM, int WN>
GS_DEV void gs_write(const float (&acc)[WM / 16][WN / 8][4], float* y, int row0, int col0, int m, int n) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = row0 + i * 16 + lane / 4 + h * 8, col = col0 + j * 8 + lane % 4 * 2;
        float* to = y + (i64)row * n + col;
        if (row >= m || col >= n) continue;
        if (n % 2 == 0) *(float2*)to = make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]);
        else if (to[0] = acc[i][j][2 * h], col + 1 < n) to[1] = acc[i][j][2 * h + 1];
      }
}

// grid (ceil(m / BM), ceil(n / BN)): blocks that run together share w, which is the larger; shared memory
// STAGES * (BM + BN) * 128 bytes
template <class T, int BM, int BN, int ACROSS, int STAGES>
GS_DEV void gs_gemm(const u16* x, const u16* w, float* y, int m, int n, int k) {
  constexpr int DOWN = GS_THREADS / 32 / ACROSS, WM = BM / DOWN, WN = BN / ACROSS, STAGE = (BM + BN) * GS_ROW;
  GS_DYNAMIC(u8, shared);
  gs_pdl_launch();
  gs_pdl_wait();
  const int m0 = blockIdx.x * BM, n0 = blockIdx.y * BN, slices = gs_ceil_div(k, GS_BK), warp = threadIdx.x / 32;
  const int row0 = warp / ACROSS * WM, col0 = warp % ACROSS * WN;
  float acc[WM / 16][WN / 8][4] = {};
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < slices) {
      gs_load_tile<BM>(shared + s * STAGE, x, m0, m, s * GS_BK, k);
      gs_load_tile<BN>(shared + s * STAGE + BM * GS_ROW, w, n0, n, s * GS_BK, k);
    }
    gs_copy_commit();  // also when empty: the waits count groups
  }
  for (int s = 0; s < slices; s++) {
    gs_copy_wait<STAGES - 2>();
    gs_sync();  // slice s is there for all, and all are done with slice s - 1, whose place is filled next
    const int ahead = s + STAGES - 1;
    u8* stage = shared + ahead % STAGES * STAGE;
    if (ahead < slices) {
      gs_load_tile<BM>(stage, x, m0, m, ahead * GS_BK, k);
      gs_load_tile<BN>(stage + BM * GS_ROW, w, n0, n, ahead * GS_BK, k);
    }
    gs_copy_commit();
    const u8* now = shared + s % STAGES * STAGE;
    gs_multiply<T, WM, WN>(acc, now, now + BM * GS_ROW, row0, col0);
  }
  gs_write<WM, WN>(acc, y, m0 + row0, n0 + col0, m, n);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_f16_64_64(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<half_mma, 64, 64, 4, 3>(x, w, y, m, n, k);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_f16_128_128(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<half_mma, 128, 128, 4, 3>(x, w, y, m, n, k);
}
extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_f16_128_256(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<half_mma, 128, 256, 4, 4>(x, w, y, m, n, k);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_bf16_64_64(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<bf16_mma, 64, 64, 4, 3>(x, w, y, m, n, k);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    gemm_bf16_128_128(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<bf16_mma, 128, 128, 4, 3>(x, w, y, m, n, k);
}
extern "C" __global__ void __launch_bounds__(256, 1)
    gemm_bf16_128_256(const u16* x, const u16* w, float* y, int m, int n, int k) {
  gs_gemm<bf16_mma, 128, 256, 4, 4>(x, w, y, m, n, k);
}
