// Hyper-connections: weights of streams by token.
#include "common.cuh"

// divides each line of an n * n matrix by its sum: elements of a line are `inner` apart, lines `outer`
GS_DEV void gs_divide(float* m, int n, int inner, int outer, float eps) {
  for (int a = 0; a < n; a++) {
    float total = eps;
    for (int b = 0; b < n; b++) total += m[a * outer + b * inner];
    for (int b = 0; b < n; b++) m[a * outer + b * inner] /= total;
  }
}
// y = [read | write | mixing matrix as [to, from]] of each row, a thread each. Grid (ceil(rows / 64))
extern "C" __global__ void __launch_bounds__(64)
    hc_weights(const float* x, const float* scale, const float* base, float* y, int rows, int n, int rounds,
               float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int row = blockIdx.x * blockDim.x + threadIdx.x, width = n * (n + 2);
  if (row >= rows) return;
  const float* from = x + (i64)row * width;
  float* to = y + (i64)row * width;
  for (int i = 0; i < 2 * n; i++) {
    const float gate = 1.0f / (1.0f + expf(-fmaf(from[i], scale[i / n], base[i])));
    to[i] = i < n ? gate + eps : gate + gate;
  }
  float* m = to + 2 * n;
  for (int a = 0; a < n; a++) {
    const float *line = from + 2 * n + a * n, *add = base + 2 * n + a * n;
    float top = -3.0e38f, total = 0.0f;
    for (int b = 0; b < n; b++) top = fmaxf(top, fmaf(line[b], scale[2], add[b]));
    for (int b = 0; b < n; b++) {
      const float p = expf(fmaf(line[b], scale[2], add[b]) - top);
      m[b * n + a] = p, total += p;
    }
    for (int b = 0; b < n; b++) m[b * n + a] = m[b * n + a] / total + eps;
  }
  gs_divide(m, n, 1, n, eps);
  for (int i = 1; i < rounds; i++) {
    gs_divide(m, n, n, 1, eps);
    gs_divide(m, n, 1, n, eps);
  }
}
