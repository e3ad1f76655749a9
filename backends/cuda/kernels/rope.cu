// Rotary position embedding. freq[i] is the angle of pair i per position, computed once on the host in double precision
// with base, linear and YaRN scaling; `factors`, if any, divide it; `mscale` is YaRN's magnitude. Pairs are (2i, 2i+1),
// or (i, i + n_rot/2) with `neox`. A position counts as the first of its `every`. Dimensions from n_rot on are copied. Grid (heads of x and x1, tokens); y may be x.
#include "common.cuh"

struct SinCos {
  float sin, cos;
};
// Sine and cosine of position * freq. The rounding error of the product is carried along, so that large positions lose
// no accuracy. Not sinf and cosf, because these keep a table in local memory for large arguments.
GS_DEV SinCos gs_sincos(float position, float freq) {
  const float angle = position * freq, error = fmaf(position, freq, -angle);
  const float n = rintf(angle * 0.636619772f);  // quadrants
  float r = fmaf(-n, 1.57079625f, angle);       // pi/2 in three parts
  r = fmaf(-n, 7.54978942e-8f, r);
  r = fmaf(-n, 5.39030253e-15f, r) + error;
  const float q = r * r;
  const float s = fmaf(r * q, fmaf(q, fmaf(q, fmaf(q, 2.75573192e-6f, -1.98412698e-4f), 8.33333333e-3f), -0.166666667f),
                       r);
  const float c = fmaf(q, fmaf(q, fmaf(q, fmaf(q, 2.48015873e-5f, -1.38888889e-3f), 4.16666667e-2f), -0.5f), 1.0f);
  const int quadrant = (int)n;
  const float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
  return {quadrant & 2 ? -a : a, (quadrant + 1) & 2 ? -b : b};
}

struct Rotated {  // strides between heads and tokens
  const float* x;
  float* y;
  i64 x_head, x_token, y_head, y_token;
};
// The first `heads` heads are those of x, the following those of x1 (queries and keys)
extern "C" __global__ void __launch_bounds__(256)
    rope(const float* x, float* y, i64 x_head, i64 x_token, i64 y_head, i64 y_token, const float* x1, float* y1,
         i64 x1_head, i64 x1_token, i64 y1_head, i64 y1_token, int heads, const int* positions, const float* freq,
         const float* factors, int dims, int n_rot, int neox, int every,
         float mscale) {
  gs_pdl_launch();
  gs_pdl_wait();
  const bool second = (int)blockIdx.x >= heads;
  const Rotated t = second ? Rotated{x1, y1, x1_head, x1_token, y1_head, y1_token}
                           : Rotated{x, y, x_head, x_token, y_head, y_token};
  const i64 head = second ? blockIdx.x - heads : blockIdx.x, token = blockIdx.y;
  const float* from = t.x + head * t.x_head + token * t.x_token;
  float* to = t.y + head * t.y_head + token * t.y_token;
  const float position = (float)(positions[token] / every * every);
  for (int i = threadIdx.x; i < n_rot / 2; i += blockDim.x) {
    const SinCos at = gs_sincos(position, factors ? freq[i] / factors[i] : freq[i]);
    const int a = neox ? i : 2 * i, b = neox ? i + n_rot / 2 : 2 * i + 1;
    const float u = from[a], v = from[b];
    to[a] = (u * at.cos - v * at.sin) * mscale;
    to[b] = (u * at.sin + v * at.cos) * mscale;
  }
  for (int i = n_rot + threadIdx.x; i < dims; i += blockDim.x) to[i] = from[i];
}
// y = x * (1 + slope ln(floor((position + offset) / length) + 1)). Grid (heads, tokens); y dense
extern "C" __global__ void __launch_bounds__(256)
    temperature(const float* x, const int* positions, float* y, int dims, int length, int offset, float slope,
                i64 x_head, i64 x_token) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float by = 1.0f + slope * logf((float)((positions[blockIdx.y] + offset) / length) + 1.0f);
  const float* from = x + blockIdx.x * x_head + blockIdx.y * x_token;
  float* to = y + ((i64)blockIdx.y * gridDim.x + blockIdx.x) * dims;
  for (int i = threadIdx.x; i < dims; i += blockDim.x) to[i] = from[i] * by;
}
