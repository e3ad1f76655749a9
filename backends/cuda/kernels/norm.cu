// y = x / sqrt(mean(x^2) + eps) * w, one block per row; w null: no weight. Any k, any row stride; y may be x. With r,
// the norm is of z = x + r, and z is stored, too
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(1024)
    rms_norm(const float* x, const float* r, float* z, const float* w, float* y, int k, i64 x_stride, i64 y_stride,
             float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* from = gs_stream(x, r, z, k, x_stride);
  float* to = y + blockIdx.x * y_stride;
  const float scale = gs_rms(from, k, eps);
  for (int i = threadIdx.x; i < k; i += blockDim.x) to[i] = from[i] * scale * (w ? w[i] : 1.0f);
}
// y = (x - mean) / sqrt(variance + eps) * w of rows of k in heads of tokens; w null: no weight; y may be x. Grid (rows)
extern "C" __global__ void __launch_bounds__(1024)
    layer_norm(const float* x, const float* w, float* y, int heads, int k, i64 x_token, i64 x_head, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* from = x + blockIdx.x / heads * x_token + blockIdx.x % heads * x_head;
  float* to = y + (i64)blockIdx.x * k;
  float sum = 0.0f, squares = 0.0f;
  for (int i = threadIdx.x; i < k; i += blockDim.x) sum += from[i];
  const float mean = gs_block_sum(sum) / (float)k;
  for (int i = threadIdx.x; i < k; i += blockDim.x) squares = fmaf(from[i] - mean, from[i] - mean, squares);
  const float by = 1.0f / sqrtf(gs_block_sum(squares) / (float)k + eps);
  for (int i = threadIdx.x; i < k; i += blockDim.x) to[i] = (from[i] - mean) * by * (w ? w[i] : 1.0f);
}
// y = x / sqrt(sum(x^2) + eps) of rows of k in heads of tokens; a warp a row. Grid (ceil(rows / 4))
extern "C" __global__ void __launch_bounds__(128)
    l2_norm(const float* x, float* y, int rows, int heads, int k, i64 x_token, i64 x_head, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int row = gs_min(blockIdx.x * 4 + threadIdx.x / 32, rows - 1), lane = threadIdx.x % 32;
  const float* from = x + row / heads * x_token + row % heads * x_head;
  float sum = 0.0f;
  for (int i = lane; i < k; i += 32) sum = fmaf(from[i], from[i], sum);
  const float by = 1.0f / sqrtf(gs_warp_sum(sum) + eps);
  if ((int)(blockIdx.x * 4 + threadIdx.x / 32) < rows)
    for (int i = lane; i < k; i += 32) y[(i64)row * k + i] = from[i] * by;
}
