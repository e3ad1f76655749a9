// Activations → int8 in blocks of 32 with a float scale and d * sum(q), which types with a minimum need.
#include "common.cuh"

// four values a lane, eight lanes a block; the whole warp comes here, those past the end with `valid` false
GS_DEV void gs_quantize4(const float4& v, bool valid, i64 at, i8* q, float2* ds) {
  float amax = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
  for (int m = 1; m < 8; m *= 2) amax = fmaxf(amax, gs_shfl_xor(amax, m));
  const float d = amax / 127.0f, scale = amax > 0.0f ? 127.0f / amax : 0.0f;
  const int i[4] = {(int)rintf(v.x * scale), (int)rintf(v.y * scale), (int)rintf(v.z * scale), (int)rintf(v.w * scale)};
  int sum = i[0] + i[1] + i[2] + i[3];
#pragma unroll
  for (int m = 1; m < 8; m *= 2) sum += gs_shfl_xor(sum, m);
  if (!valid) return;
  *(u32*)(q + at) = (i[0] & 255) | (i[1] & 255) << 8 | (i[2] & 255) << 16 | (u32)i[3] << 24;
  if (threadIdx.x % 8 == 0) ds[at / 32] = make_float2(d, d * (float)sum);
}
