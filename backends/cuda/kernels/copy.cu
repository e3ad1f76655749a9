// Copies with conversion between float types for any four strides (in elements, innermost last), rows by index, and
// weights to half and bfloat16.
#include "quants.cuh"

struct f32 {
  typedef float Cell;
  GS_DEV float get(Cell v) { return v; }
  GS_DEV Cell put(float v) { return v; }
};
struct f16 {
  typedef u16 Cell;
  GS_DEV float get(Cell v) { return gs_half(v); }
  GS_DEV Cell put(float v) { return gs_to_half(v); }
};
struct bf16 {
  typedef u16 Cell;
  GS_DEV float get(Cell v) { return gs_bf16(v); }
  GS_DEV Cell put(float v) { return gs_to_bf16(v); }
};

// grid (ceil(n3 / threads), n2, n0 * n1)
template <class A, class B>
GS_DEV void gs_copy(const typename A::Cell* x, typename B::Cell* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3,
                    i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 i0 = blockIdx.z / n1, i1 = blockIdx.z % n1, i2 = blockIdx.y, i3 = blockIdx.x * blockDim.x + threadIdx.x;
  if (i3 < n3) y[i0 * y0 + i1 * y1 + i2 * y2 + i3 * y3] = B::put(A::get(x[i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3]));
}
// y[slots[t]] = x[t]: the key-value cache; a slot below 0 is skipped. Grid (ceil(k / threads), rows)
template <class B> GS_DEV void gs_set_rows(const float* x, const int* slots, typename B::Cell* y, int k, i64 x_stride, i64 y_stride) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = blockIdx.x * blockDim.x + threadIdx.x, slot = slots[blockIdx.y];
  if (i < k && slot >= 0) y[slot * y_stride + i] = B::put(x[blockIdx.y * x_stride + i]);
}
// y[i] = x[which[i]]: embeddings in a float type. Grid (ceil(k / threads), n)
template <class A> GS_DEV void gs_get_rows(const typename A::Cell* x, const int* which, float* y, int rows, int k, i64 x_stride) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = blockIdx.x * blockDim.x + threadIdx.x, row = which[blockIdx.y];
  if (i < k) y[(i64)blockIdx.y * k + i] = row >= 0 && row < rows ? A::get(x[row * x_stride + i]) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(256)
    get_rows_f32(const float* x, const int* which, float* y, int rows, int k, i64 x_stride) {
  gs_get_rows<f32>(x, which, y, rows, k, x_stride);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_f16(const u16* x, const int* which, float* y, int rows, int k, i64 x_stride) {
  gs_get_rows<f16>(x, which, y, rows, k, x_stride);
}
extern "C" __global__ void __launch_bounds__(256)
    get_rows_bf16(const u16* x, const int* which, float* y, int rows, int k, i64 x_stride) {
  gs_get_rows<bf16>(x, which, y, rows, k, x_stride);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_f32(const float* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_copy<f32, f32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_f16(const float* x, u16* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_copy<f32, f16>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f32_bf16(const float* x, u16* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_copy<f32, bf16>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_f16_f32(const u16* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_copy<f16, f32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    copy_bf16_f32(const u16* x, float* y, int n1, int n3, i64 x0, i64 x1, i64 x2, i64 x3, i64 y0, i64 y1, i64 y2, i64 y3) {
  gs_copy<bf16, f32>(x, y, n1, n3, x0, x1, x2, x3, y0, y1, y2, y3);
}
extern "C" __global__ void __launch_bounds__(256)
    set_rows_f32(const float* x, const int* slots, float* y, int k, i64 x_stride, i64 y_stride) {
  gs_set_rows<f32>(x, slots, y, k, x_stride, y_stride);
}
extern "C" __global__ void __launch_bounds__(256)
    set_rows_f16(const float* x, const int* slots, u16* y, int k, i64 x_stride, i64 y_stride) {
  gs_set_rows<f16>(x, slots, y, k, x_stride, y_stride);
}

// Grid (ceil(units / threads), rows): one unit of 32 weights a thread
template <class T, class B>
GS_DEV void gs_dequantize(const u8* w, typename B::Cell* y, const int* which, int rows, int k) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int units = k / 32, step = blockIdx.x * blockDim.x + threadIdx.x, row = which ? which[blockIdx.y] : (int)blockIdx.y;
  if (step >= units / T::N || row < 0 || row >= rows) return;
  const typename T::Raw raw = T::load(gs_row<T>(w, rows, units, row), step);
#pragma unroll
  for (int n = 0; n < T::N; n++) {
    Unit u;
    T::unpack(raw, n, step, u);
    typename B::Cell* to = y + (i64)blockIdx.y * k + (step * T::N + n) * 32;
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const float v = (float)(i8)(u.v[i / 4] >> (8 * (i % 4)));
      to[i] = B::put(T::MIN ? fmaf(u.d[i / 16], v, u.m[i / 16]) : u.d[i / 16] * v);
    }
  }
}

//@ for TYPE
// which[i] is the row that becomes row i (GET_ROWS); null: all rows in order
extern "C" __global__ void __launch_bounds__(128) to_f32_TYPE(const u8* w, float* y, const int* which, int rows, int k) {
  gs_dequantize<TYPE, f32>(w, y, which, rows, k);
}
extern "C" __global__ void __launch_bounds__(128) to_f16_TYPE(const u8* w, u16* y, const int* which, int rows, int k) {
  gs_dequantize<TYPE, f16>(w, y, which, rows, k);
}
extern "C" __global__ void __launch_bounds__(128) to_bf16_TYPE(const u8* w, u16* y, const int* which, int rows, int k) {
  gs_dequantize<TYPE, bf16>(w, y, which, rows, k);
}
