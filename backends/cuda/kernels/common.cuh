// The base of every kernel file: short type names, PTX behind gs_* wrappers, warp and block reductions. No CUDA header
// is included, because NVRTC gets one string. Under GS_EMU (kernels built for the CPU) gs_emu.h defines the same names,
// so PTX is allowed in this section only. Warp operations always involve all 32 lanes.
#ifndef GS_EMU
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
#define GS_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define GS_DYNAMIC(T, name)                             \
  extern __shared__ __align__(128) u8 gs_dynamic_mem[]; \
  T* const name = reinterpret_cast<T*>(gs_dynamic_mem)
#define GS_DEV static __device__ __forceinline__

GS_DEV void gs_sync() { __syncthreads(); }
GS_DEV u32 gs_smem(const void* p) { return (u32)__cvta_generic_to_shared(p); }
template <class T> GS_DEV T gs_shfl_xor(T v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
template <class T> GS_DEV T gs_shfl(T v, int lane) { return __shfl_sync(~0u, v, lane); }
GS_DEV int gs_dp4a(u32 a, u32 b, int c) { return __dp4a((int)a, (int)b, c); }
GS_DEV u32 gs_prmt(u32 a, u32 b, u32 selector) {  // bit 3 of a selector nibble repeats the byte's sign
  u32 v;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(selector));
  return v;
}
// threadIdx.x, read again at each use: what is derived from it occupies no register across a loop
GS_DEV u32 gs_thread() {
  u32 v;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(v));
  return v;
}
// an address that is computed once: the compiler cannot fold later offsets into it
template <class T> GS_DEV T* gs_now(T* p) {
  asm volatile("" : "+l"(p));
  return p;
}
GS_DEV float gs_product(float a, float b) { return __fmul_rn(a, b); }  // rounded before anything is added to it
GS_DEV float gs_bits(u32 v) { return __uint_as_float(v); }
GS_DEV u32 gs_bits(float v) { return __float_as_uint(v); }

// conversions, round to nearest even
GS_DEV float gs_half(u16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}
GS_DEV u16 gs_to_half(float f) {
  u16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
}
GS_DEV u32 gs_pack_half(float lo, float hi) {
  u32 v;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
}
GS_DEV u32 gs_pack_bf16(float lo, float hi) {
  u32 v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
}
GS_DEV float gs_exp2(float x) {  // 2 ulp; subnormal results are 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Weights are read once, so these loads bypass the L1 cache. Never use them for what an earlier kernel wrote: such
// reads may be moved above gs_pdl_wait
GS_DEV uint4 gs_weights16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
GS_DEV uint2 gs_weights8(const void* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
GS_DEV u32 gs_weights4(const void* p) {
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
GS_DEV u16 gs_weights2(const void* p) {
  u16 v;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}
GS_DEV u8 gs_weights1(const void* p) {
  u32 v;
  asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(v) : "l"(p));
  return (u8)v;
}
GS_DEV void gs_prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// programmatic dependent launch: gs_pdl_wait() returns when the kernel before has finished and its writes are visible
GS_DEV void gs_pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
GS_DEV void gs_pdl_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// asynchronous copies of 16 bytes into shared memory; without `valid` zeros are written and nothing is read
GS_DEV void gs_copy16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(gs_smem(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
template <int N> GS_DEV void gs_copy_small(void* shared, const void* global, bool valid) {  // the same of 4 or 8 bytes
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(gs_smem(shared)), "l"(global), "n"(N),
               "r"(valid ? N : 0)
               : "memory");
}
GS_DEV void gs_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> GS_DEV void gs_copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// tensor cores; ldmatrix: lane l gives the address of row l%8 of matrix l/8
GS_DEV void gs_ldmatrix4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(gs_smem(row))
               : "memory");
}
GS_DEV void gs_ldmatrix4_t(u32 (&r)[4], const void* row) {  // each 8 × 8 matrix transposed
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(gs_smem(row))
               : "memory");
}
#define GS_MMA(name, shape, C, c)                                                                                   \
  GS_DEV void name(C(&d)[4], const u32(&a)[4], u32 b0, u32 b1) {                                                    \
    asm("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                          \
        : "+" c(d[0]), "+" c(d[1]), "+" c(d[2]), "+" c(d[3])                                                        \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                            \
  }
GS_MMA(gs_mma_half, "m16n8k16.row.col.f32.f16.f16.f32", float, "f")
GS_MMA(gs_mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32", float, "f")
GS_MMA(gs_mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", float, "f")  // of floats, whose low 13 bits are not looked at
GS_MMA(gs_mma_int8, "m16n8k32.row.col.s32.s8.s8.s32", int, "r")
GS_DEV void gs_mma_int8_k16(int (&d)[4], u32 a0, u32 a1, u32 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}
#endif  // GS_EMU

GS_DEV float gs_bf16(u16 v) { return gs_bits((u32)v << 16); }
GS_DEV u16 gs_to_bf16(float f) { return (u16)gs_pack_bf16(f, 0.0f); }
GS_DEV int gs_min(int a, int b) { return a < b ? a : b; }
GS_DEV int gs_max(int a, int b) { return a > b ? a : b; }
GS_DEV int gs_ceil_div(int a, int b) { return (a + b - 1) / b; }

// reductions in a fixed order: the same bits in every run
GS_DEV float gs_warp_sum(float v) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) v += gs_shfl_xor(v, m);
  return v;
}
GS_DEV float gs_warp_max(float v) {
#pragma unroll
  for (int m = 16; m > 0; m >>= 1) v = fmaxf(v, gs_shfl_xor(v, m));
  return v;
}
GS_DEV float gs_block_sum(float v) {  // every thread of the block gets the sum
  GS_SHARED(float, partials, 32);
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  v = gs_warp_sum(v);
  gs_sync();  // a second call must not overwrite what the first still reads
  if (lane == 0) partials[threadIdx.x / 32] = v;
  gs_sync();
  return gs_warp_sum(lane < warps ? partials[lane] : 0.0f);
}
