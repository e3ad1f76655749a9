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
