// One use of every wrapper of common.cuh: the first thing to compare with numpy on a new card, because the emulator
// replaces exactly these. Each kernel is one warp.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(32) wrap_from_half(const u16* x, float* half, float* bf16, int n) {
  gs_pdl_launch();
  gs_pdl_wait();
  for (int i = threadIdx.x; i < n; i += 32) half[i] = gs_half(x[i]), bf16[i] = gs_bf16(x[i]);
}
extern "C" __global__ void __launch_bounds__(32)
    wrap_to_half(const float* x, u16* half, u16* bf16, u32* halves, u32* bf16s, float* exp2, int n) {
  gs_pdl_launch();
  gs_pdl_wait();
  for (int i = threadIdx.x; i < n; i += 32) {
    half[i] = gs_to_half(x[i]), bf16[i] = gs_to_bf16(x[i]);
    halves[i] = gs_pack_half(x[i], x[n - 1 - i]), bf16s[i] = gs_pack_bf16(x[i], x[n - 1 - i]);
    exp2[i] = gs_exp2(x[i]);
  }
}
extern "C" __global__ void __launch_bounds__(32)
    wrap_integers(const u32* a, const u32* b, u32* dp4a, u32* prmt, int n) {
  gs_pdl_launch();
  gs_pdl_wait();
  for (int i = threadIdx.x; i < n; i += 32) {
    dp4a[i] = (u32)gs_dp4a(a[i], b[i], (int)i);
    prmt[i] = gs_prmt(a[i], b[i], a[i] ^ b[n - 1 - i]);
  }
}
// 16, 8, 4, 2 and 1 bytes of x + 16 * lane
extern "C" __global__ void __launch_bounds__(32) wrap_loads(const u8* x, u32* y) {
  gs_pdl_launch();
  gs_pdl_wait();
  const u8* at = x + threadIdx.x * 16;
  gs_prefetch_l2(at);
  const uint4 v = gs_weights16(at);
  const uint2 w = gs_weights8(at);
  const u32 all[9] = {v.x, v.y, v.z, v.w, w.x, w.y, gs_weights4(at), gs_weights2(at), gs_weights1(at)};
#pragma unroll
  for (int i = 0; i < 9; i++) y[threadIdx.x * 9 + i] = all[i];
}
extern "C" __global__ void __launch_bounds__(32) wrap_lanes(const float* x, float* y) {
  gs_pdl_launch();
  gs_pdl_wait();
  const float v = x[threadIdx.x];
  const float all[5] = {gs_shfl_xor(v, 5), gs_shfl(v, threadIdx.x * 3 % 32), gs_warp_sum(v), gs_warp_max(v),
                        gs_block_sum(v)};
#pragma unroll
  for (int i = 0; i < 5; i++) y[i * 32 + threadIdx.x] = all[i];
}
// x copied in pieces of 8 and of 4 bytes, every other one zeros
extern "C" __global__ void __launch_bounds__(32) wrap_copies(const u8* x, u32* y) {
  gs_pdl_launch();
  gs_pdl_wait();
  GS_SHARED(u8, tile, 2 * 32 * 16);
  const u32 lane = gs_thread();
#pragma unroll
  for (int i = 0; i < 2; i++) gs_copy_small<8>(tile + lane * 16 + i * 8, gs_now(x + lane * 16 + i * 8), i == 0);
#pragma unroll
  for (int i = 0; i < 4; i++)
    gs_copy_small<4>(tile + 512 + lane * 16 + i * 4, gs_now(x + lane * 16 + i * 4), i % 2 == 1);
  gs_copy_commit();
  gs_copy_wait<0>();
#pragma unroll
  for (int i = 0; i < 8; i++) y[lane * 8 + i] = *(const u32*)(tile + i / 4 * 512 + lane * 16 + i % 4 * 4);
}
// a and b are 16 rows of 32 bytes. registers, transposed: what ldmatrix gives for a. Then a b^T for each type; `first`
// is the product of the first 16 bytes
extern "C" __global__ void __launch_bounds__(32)
    wrap_matrix(const u8* a, const u8* b, u32* registers, u32* transposed, float* half, float* bf16, float* tf32,
                int* int8, int* first, u32* zeros) {
  gs_pdl_launch();
  gs_pdl_wait();
  GS_SHARED(u8, tile, 3 * 512);
  const int lane = threadIdx.x;
  gs_copy16(tile + lane * 16, a + lane * 16, true);
  gs_copy16(tile + 512 + lane * 16, b + lane * 16, true);
  gs_copy_commit();
  gs_copy16(tile + 1024 + lane * 16, a, false);
  gs_copy_commit();
  gs_copy_wait<0>();
  gs_sync();
  zeros[lane] = ((const u32*)(tile + 1024))[lane * 4 + 3];
  u32 ra[4], rb[4];
  gs_ldmatrix4(ra, tile + lane % 16 * 32 + lane / 16 * 16);
  gs_ldmatrix4(rb, tile + 512 + (lane % 8 + lane / 16 * 8) * 32 + lane / 8 % 2 * 16);
#pragma unroll
  for (int i = 0; i < 4; i++) registers[lane * 4 + i] = ra[i];
  u32 rt[4];
  gs_ldmatrix4_t(rt, tile + lane % 16 * 32 + lane / 16 * 16);
#pragma unroll
  for (int i = 0; i < 4; i++) transposed[lane * 4 + i] = rt[i];
#pragma unroll
  for (int j = 0; j < 2; j++) {
    float h[4] = {}, f[4] = {}, t[4] = {};
    int n[4] = {}, m[4] = {};
    gs_mma_half(h, ra, rb[2 * j], rb[2 * j + 1]);
    gs_mma_bf16(f, ra, rb[2 * j], rb[2 * j + 1]);
    gs_mma_tf32(t, ra, rb[2 * j], rb[2 * j + 1]);
    gs_mma_int8(n, ra, rb[2 * j], rb[2 * j + 1]);
    gs_mma_int8_k16(m, ra[0], ra[1], rb[2 * j]);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int at = (lane / 4 + e / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + e % 2;
      half[at] = h[e], bf16[at] = f[e], tf32[at] = t[e], int8[at] = n[e], first[at] = m[e];
    }
  }
}
