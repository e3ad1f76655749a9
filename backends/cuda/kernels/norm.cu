// y = x / sqrt(mean(x^2) + eps) * w, one block a row; w null: no weight. Any k, any row stride; y may be x.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(1024)
    rms_norm(const float* x, const float* w, float* y, int k, i64 x_stride, i64 y_stride, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* from = x + blockIdx.x * x_stride;
  float* to = y + blockIdx.x * y_stride;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < k; i += blockDim.x) sum = fmaf(from[i], from[i], sum);
  const float scale = 1.0f / sqrtf(gs_block_sum(sum) / (float)k + eps);
  for (int i = threadIdx.x; i < k; i += blockDim.x) to[i] = from[i] * scale * (w ? w[i] : 1.0f);
}
// z = x + r (the residual stream), y = rms_norm(z) * w
extern "C" __global__ void __launch_bounds__(1024)
    add_rms_norm(const float* x, const float* r, const float* w, float* z, float* y, int k, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 at = (i64)blockIdx.x * k;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < k; i += blockDim.x) {
    const float v = x[at + i] + r[at + i];
    z[at + i] = v;
    sum = fmaf(v, v, sum);
  }
  const float scale = 1.0f / sqrtf(gs_block_sum(sum) / (float)k + eps);
  for (int i = threadIdx.x; i < k; i += blockDim.x) y[at + i] = z[at + i] * scale * w[i];  // the same thread wrote z
}
