// Activations for the int8 dot products. k is a multiple of 32. Rows of x start at multiples of 4 floats; rows that are
// normed first may start anywhere.
#include "norm.cuh"
#include "quantize.cuh"

// grid (tokens, ceil(k / (4 * threads)))
extern "C" __global__ void __launch_bounds__(256) quantize_q8(const float* x, i8* q, float2* ds, int k, i64 x_stride) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
  const bool valid = i < k;
  const float4 v = valid ? *(const float4*)(x + blockIdx.x * x_stride + i) : make_float4(0, 0, 0, 0);
  gs_quantize4(v, valid, (i64)blockIdx.x * k + i, q, ds);
}

// x / rms(x) * w as in norm.cu, quantised in the same pass, and stored as floats in y where y is not null. With r, the
// norm is of z = x + r. Grid (tokens)
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_q8(const float* x, const float* r, float* z, const float* w, float* y, i8* q, float2* ds, int k,
                i64 x_stride, float eps) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float* row = gs_stream(x, r, z, k, x_stride);
  const bool whole = gs_whole(row, k);
  const float scale = gs_rms(row, k, eps);
  for (int first = 0; first < k; first += blockDim.x * 4) {  // the warp stays whole to the end
    const int i = first + threadIdx.x * 4;
    const bool valid = i < k;
    float4 v = make_float4(0, 0, 0, 0);
    if (valid) {
      v = gs_normed(row, w, i, k, whole, scale);
      if (y) *(float4*)(y + (i64)blockIdx.x * k + i) = v;
    }
    gs_quantize4(v, valid, (i64)blockIdx.x * k + i, q, ds);
  }
}

// x as half or bfloat16 for the tensor cores, eight values per thread; halves saturate at the largest finite value.
// Grid (ceil(tokens * k / 8 / threads))
GS_DEV float gs_in_half(float v) { return v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v; }
struct halves {
  GS_DEV u32 pack(float lo, float hi) { return gs_pack_half(gs_in_half(lo), gs_in_half(hi)); }
};
struct bfloats {
  GS_DEV u32 pack(float lo, float hi) { return gs_pack_bf16(lo, hi); }
};
template <class T> GS_DEV void gs_round(const float* x, u16* y, int tokens, int k, i64 x_stride) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const int pieces = k / 8, token = (int)(at / pieces), i = (int)(at % pieces) * 8;
  if (token >= tokens) return;
  const float4 lo = *(const float4*)(x + token * x_stride + i), hi = *(const float4*)(x + token * x_stride + i + 4);
  *(uint4*)(y + at * 8) =
      make_uint4(T::pack(lo.x, lo.y), T::pack(lo.z, lo.w), T::pack(hi.x, hi.y), T::pack(hi.z, hi.w));
}
extern "C" __global__ void __launch_bounds__(256) round_f16(const float* x, u16* y, int tokens, int k, i64 x_stride) {
  gs_round<halves>(x, y, tokens, k, x_stride);
}
extern "C" __global__ void __launch_bounds__(256) round_bf16(const float* x, u16* y, int tokens, int k, i64 x_stride) {
  gs_round<bfloats>(x, y, tokens, k, x_stride);
}
