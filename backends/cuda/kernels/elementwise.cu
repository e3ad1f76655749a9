// y = f(a, b) over rows of any stride; a row stride of 0 repeats one row (a bias, a norm's weight). Grid (columns, rows)
#include "activation.cuh"

struct Cell {
  int i;
  i64 row;
};
GS_DEV Cell gs_cell() {
  gs_pdl_launch();
  gs_pdl_wait();
  return {(int)(blockIdx.x * blockDim.x + threadIdx.x), (i64)blockIdx.y};
}

extern "C" __global__ void __launch_bounds__(256)
    add(const float* a, const float* b, float* y, int k, i64 a_stride, i64 b_stride, i64 y_stride) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = a[c.row * a_stride + c.i] + b[c.row * b_stride + c.i];
}
extern "C" __global__ void __launch_bounds__(256)
    mul(const float* a, const float* b, float* y, int k, i64 a_stride, i64 b_stride, i64 y_stride) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = a[c.row * a_stride + c.i] * b[c.row * b_stride + c.i];
}
extern "C" __global__ void __launch_bounds__(256)
    silu_mul(const float* a, const float* b, float* y, int k, i64 a_stride, i64 b_stride, i64 y_stride) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = gs_silu(a[c.row * a_stride + c.i]) * b[c.row * b_stride + c.i];
}
extern "C" __global__ void __launch_bounds__(256)
    gelu_mul(const float* a, const float* b, float* y, int k, i64 a_stride, i64 b_stride, i64 y_stride) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = gs_gelu(a[c.row * a_stride + c.i]) * b[c.row * b_stride + c.i];
}
extern "C" __global__ void __launch_bounds__(256)
    relu2_mul(const float* a, const float* b, float* y, int k, i64 a_stride, i64 b_stride, i64 y_stride) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = gs_relu2(a[c.row * a_stride + c.i]) * b[c.row * b_stride + c.i];
}
extern "C" __global__ void __launch_bounds__(256) scale(const float* x, float* y, int k, i64 x_stride, i64 y_stride, float by) {
  const Cell c = gs_cell();
  if (c.i < k) y[c.row * y_stride + c.i] = x[c.row * x_stride + c.i] * by;
}
// y[t] = sum_e weights[t, e] * x[t, e]: the routed experts' sum, in the order of the slots
extern "C" __global__ void __launch_bounds__(256)
    weighted_sum(const float* x, const float* weights, float* y, int k, int used) {
  const Cell c = gs_cell();
  if (c.i >= k) return;
  float sum = 0.0f;
  for (int e = 0; e < used; e++) sum = fmaf(weights[c.row * used + e], x[(c.row * used + e) * k + c.i], sum);
  y[c.row * k + c.i] = sum;
}
