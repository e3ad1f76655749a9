// What ptx.py writes calls these: PTX instructions as the manual has them, behind gs_emu.h.
#pragma once
#include <cfenv>
#include <type_traits>
template <class T> static T as(u64 v) { T t; memcpy(&t, &v, sizeof t); return t; }
template <class R, class T> static void put(R& r, T v) {  // integers are extended as their type says
  if constexpr (std::is_same_v<T, float>) r = gs_bits(v);
  else r = (R)v;
}
static u8* in_shared(u64 offset) { return gs_emu::shared + offset; }
template <class T> static T* at(void* p, int n = 1) {
  if ((uintptr_t)p % (n * sizeof(T))) gs_emu::fail("misaligned access");
  return (T*)p;
}
template <class T> static T shifted_left(T v, u32 n) { return n < 8 * sizeof(T) ? (T)(v << n) : (T)0; }
template <class T> static T shifted_right(T v, u32 n) {
  const u32 most = 8 * sizeof(T) - 1;
  return n <= most ? (T)(v >> n) : std::is_signed_v<T> ? (T)(v >> most) : (T)0;
}
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
static float fma_down(float a, float b, float c) {
  const int mode = fegetround();
  fesetround(FE_DOWNWARD);
  volatile float x = a, y = b, z = c;
  const volatile float r = __builtin_fmaf(x, y, z);
  fesetround(mode);
  return r;
}
static int truncated(float x) {
  return x != x ? 0 : x >= 0x1p31f ? 0x7fffffff : x < -0x1p31f ? (int)0x80000000 : (int)x;
}
static u16 to_half(float x) { const _Float16 h = (_Float16)x; u16 v; memcpy(&v, &h, 2); return v; }
static float from_half(u16 v) { _Float16 h; memcpy(&h, &v, 2); return (float)h; }
static u16 to_bf16(float x) {
  u32 v = gs_bits(x);
  if ((v & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (u16)((v + 0x7fff + (v >> 16 & 1)) >> 16);
}
static u32 dot4(u32 a, u32 b, u32 c) {
  for (int i = 0; i < 4; i++) c += (u32)((int)(i8)(a >> 8 * i) * (int)(i8)(b >> 8 * i));
  return c;
}
static u32 permuted(u32 a, u32 b, u32 selector) {
  u32 r = 0;
  for (int i = 0; i < 4; i++) {
    const u32 s = selector >> 4 * i & 15, byte = (s & 4 ? b : a) >> 8 * (s & 3) & 0xff;
    r |= (s & 8 ? (byte >> 7) * 0xff : byte) << 8 * i;
  }
  return r;
}
template <class T> static T inserted(T a, T b, u32 position, u32 length) {  // the low bits of a into b
  if (position + length > 8 * sizeof(T)) gs_emu::fail("bits behind the end of a register");
  const u64 mask = ((unsigned __int128)1 << length) - 1;
  return (T)((b & ~(mask << position)) | (a & mask) << position);
}
static void whole_warp(u32 clamp, u32 mask) {
  if (clamp != 31 || mask != ~0u) gs_emu::fail("a shuffle of less than a warp");
}
static bool sixteen(u32 n) {
  if (n != 0 && n != 16) gs_emu::fail("an asynchronous copy of neither 0 nor 16 bytes");
  return n == 16;
}
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-label"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
