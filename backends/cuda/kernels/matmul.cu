// Mat-vec for 1 to 8 tokens on repacked weights. Block: 4 warps, of which `split` share a group of two rows; grid x:
// ceil(rows / (4 / split * 2)). The launch bounds keep registers below 128 (8 tokens: 168), so that 16 (12) warps fit
// on a multiprocessor.
#include "matvec.cuh"
#define GS_MATRICES {total, first, across, w_next, y_next}
//@ for TYPE
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_1_TYPE(const u8* w, const i8* q8, const float2* ds, float* y, int tokens, int rows, int k, int y_stride,
                  int split, int total, int first, int across, i64 w_next, i64 y_next) {
  gs_matvec<TYPE, 1, GS_ROWS, GS_UNROLL>(w, q8, ds, y, tokens, rows, k, y_stride, split, GS_MATRICES);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_2_TYPE(const u8* w, const i8* q8, const float2* ds, float* y, int tokens, int rows, int k, int y_stride,
                  int split, int total, int first, int across, i64 w_next, i64 y_next) {
  gs_matvec<TYPE, 2, 2, 1>(w, q8, ds, y, tokens, rows, k, y_stride, split, GS_MATRICES);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_4_TYPE(const u8* w, const i8* q8, const float2* ds, float* y, int tokens, int rows, int k, int y_stride,
                  int split, int total, int first, int across, i64 w_next, i64 y_next) {
  gs_matvec<TYPE, 4, 2, 1>(w, q8, ds, y, tokens, rows, k, y_stride, split, GS_MATRICES);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    matvec_8_TYPE(const u8* w, const i8* q8, const float2* ds, float* y, int tokens, int rows, int k, int y_stride,
                  int split, int total, int first, int across, i64 w_next, i64 y_next) {
  gs_matvec<TYPE, 8, 2, 1>(w, q8, ds, y, tokens, rows, k, y_stride, split, GS_MATRICES);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_fused_TYPE(const u8* w, float* y, int rows, int split, const u8* w1, float* y1, int rows1, int split1,
                       const u8* w2, float* y2, int rows2, int split2, const i8* q8, const float2* ds, int k) {
  const Share all[3] = {{w, y, rows, split}, {w1, y1, rows1, split1}, {w2, y2, rows2, split2}};
  gs_matvec_fused<TYPE, GS_ROWS, GS_UNROLL>(all, q8, ds, k);
}
