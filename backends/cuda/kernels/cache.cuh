// The types of a key-value cache. AHEAD: how many positions have their keys and values loaded before the first is used.
// load() reads elements i .. i + 7 of a row of bytes. `left` of them exist: fewer than 8 only where the width of a head
// is no multiple of 8, so that rows start at any address (f16s, f32s).
#include "common.cuh"

struct f16 {
  enum { AHEAD = 2 };
  struct Raw { uint4 v; };
  GS_DEV Raw load(const u8* row, int i, int left) { return {*(const uint4*)(row + i * 2)}; }
  GS_DEV float value(const Raw& r, int i) {
    const u32 w = i / 2 == 0 ? r.v.x : i / 2 == 1 ? r.v.y : i / 2 == 2 ? r.v.z : r.v.w;
    return gs_half((u16)(i % 2 ? w >> 16 : w));
  }
};
struct f32 {
  enum { AHEAD = 1 };
  struct Raw { float4 a, b; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    return {*(const float4*)(row + i * 4), *(const float4*)(row + i * 4 + 16)};
  }
  GS_DEV float value(const Raw& r, int i) {
    const float4& v = i < 4 ? r.a : r.b;
    return i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w;
  }
};
struct f16s {
  enum { AHEAD = 1 };
  struct Raw { u16 v[8]; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    Raw r;
#pragma unroll
    for (int j = 0; j < 8; j++) r.v[j] = j < left ? ((const u16*)row)[i + j] : 0;
    return r;
  }
  GS_DEV float value(const Raw& r, int i) { return gs_half(r.v[i]); }
};
struct f32s {
  enum { AHEAD = 1 };
  struct Raw { float v[8]; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    Raw r;
#pragma unroll
    for (int j = 0; j < 8; j++) r.v[j] = j < left ? ((const float*)row)[i + j] : 0.0f;
    return r;
  }
  GS_DEV float value(const Raw& r, int i) { return r.v[i]; }
};
struct q80 {  // blocks of 32: a half, 32 bytes; they start at multiples of 2
  enum { AHEAD = 1 };
  struct Raw { u16 w[4], d; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u16* block = (const u16*)(row + i / 32 * 34);
    const u16* at = block + 1 + i % 32 / 2;
    return {{at[0], at[1], at[2], at[3]}, block[0]};
  }
  GS_DEV float value(const Raw& r, int i) {
    return gs_half(r.d) * (float)(i8)(i % 2 ? r.w[i / 2] >> 8 : r.w[i / 2] & 255);
  }
};
struct q40 {  // blocks of 32: a half, 16 bytes of two codes, those of the second half in the upper bits
  enum { AHEAD = 1 };
  struct Raw { u32 lo, hi; u16 d; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u16* block = (const u16*)(row + i / 32 * 18);
    const u16* at = block + 1 + i % 16 / 2;
    const int up = i % 32 / 16 * 4;
    return {(at[0] | (u32)at[1] << 16) >> up & 0x0f0f0f0f, (at[2] | (u32)at[3] << 16) >> up & 0x0f0f0f0f, block[0]};
  }
  GS_DEV float value(const Raw& r, int i) {
    return gs_half(r.d) * (float)((int)((i < 4 ? r.lo : r.hi) >> (8 * (i % 4)) & 15) - 8);
  }
};
