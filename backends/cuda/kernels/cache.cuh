// The types of a key-value cache. AHEAD: how many positions have their keys and values loaded before the first is used.
// load() reads elements i .. i + 7 of a row of bytes. `left` of them exist: fewer than 8 only where the width of a head
// is no multiple of 8, so that rows start at any address (f16s, bf16s, f32s). at() reads one element of a row whose
// elements are `step` bytes apart, SIZE where they are dense; blocks always are.
#include "iq4.cuh"

struct f16 {
  enum { AHEAD = 2, SIZE = 2 };
  struct Raw { uint4 v; };
  GS_DEV Raw load(const u8* row, int i, int left) { return {*(const uint4*)(row + i * 2)}; }
  GS_DEV u16 bits(const Raw& r, int i) {
    const u32 w = i / 2 == 0 ? r.v.x : i / 2 == 1 ? r.v.y : i / 2 == 2 ? r.v.z : r.v.w;
    return (u16)(i % 2 ? w >> 16 : w);
  }
  GS_DEV float value(const Raw& r, int i) { return gs_half(bits(r, i)); }
  GS_DEV float at(const u8* row, int i, i64 step) { return gs_half(*(const u16*)(row + i * step)); }
};
struct bf16 : f16 {
  GS_DEV float value(const Raw& r, int i) { return gs_bf16(bits(r, i)); }
  GS_DEV float at(const u8* row, int i, i64 step) { return gs_bf16(*(const u16*)(row + i * step)); }
};
struct f32 {
  enum { AHEAD = 1, SIZE = 4 };
  struct Raw { float4 a, b; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    return {*(const float4*)(row + i * 4), *(const float4*)(row + i * 4 + 16)};
  }
  GS_DEV float value(const Raw& r, int i) {
    const float4& v = i < 4 ? r.a : r.b;
    return i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w;
  }
  GS_DEV float at(const u8* row, int i, i64 step) { return *(const float*)(row + i * step); }
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
struct bf16s : f16s {
  GS_DEV float value(const Raw& r, int i) { return gs_bf16(r.v[i]); }
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
  enum { AHEAD = 1, SIZE = 0 };
  struct Raw { u16 w[4], d; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u16* block = (const u16*)(row + i / 32 * 34);
    const u16* at = block + 1 + i % 32 / 2;
    return {{at[0], at[1], at[2], at[3]}, block[0]};
  }
  GS_DEV float value(const Raw& r, int i) {
    return gs_half(r.d) * (float)(i8)(i % 2 ? r.w[i / 2] >> 8 : r.w[i / 2] & 255);
  }
  GS_DEV float at(const u8* row, int i, i64) {
    const u8* block = row + i / 32 * 34;
    return gs_half(*(const u16*)block) * (float)(i8)block[2 + i % 32];
  }
};
// 8 or 1 of 32 codes in 16 bytes, those of the second half in the upper bits
GS_DEV uint2 gs_eight_codes(const u16* codes, int i) {
  const u16* at = codes + i % 16 / 2;
  const int up = i % 32 / 16 * 4;
  return {(at[0] | (u32)at[1] << 16) >> up & 0x0f0f0f0f, (at[2] | (u32)at[3] << 16) >> up & 0x0f0f0f0f};
}
GS_DEV int gs_one_code(const u8* codes, int i) { return codes[i % 16] >> (i % 32 / 16 * 4) & 15; }
GS_DEV int gs_byte(const uint2& v, int i) { return (i < 4 ? v.x : v.y) >> (8 * (i % 4)) & 255; }

struct q40 {  // blocks of 32: a half, 16 bytes of codes
  enum { AHEAD = 1, SIZE = 0 };
  struct Raw { uint2 v; u16 d; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u16* block = (const u16*)(row + i / 32 * 18);
    return {gs_eight_codes(block + 1, i), block[0]};
  }
  GS_DEV float value(const Raw& r, int i) { return gs_half(r.d) * (float)(gs_byte(r.v, i) - 8); }
  GS_DEV float at(const u8* row, int i, i64) {
    const u8* block = row + i / 32 * 18;
    return gs_half(*(const u16*)block) * (float)(gs_one_code(block + 2, i) - 8);
  }
};
struct iq4nl {  // the same with codes for values of a table
  enum { AHEAD = 1, SIZE = 0 };
  struct Raw { uint2 v; u16 d; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u16* block = (const u16*)(row + i / 32 * 18);
    const uint2 codes = gs_eight_codes(block + 1, i);
    return {{gs_iq4_bytes(codes.x), gs_iq4_bytes(codes.y)}, block[0]};
  }
  GS_DEV float value(const Raw& r, int i) { return gs_half(r.d) * (float)(i8)gs_byte(r.v, i); }
  GS_DEV float at(const u8* row, int i, i64) {
    const u8* block = row + i / 32 * 18;
    return gs_half(*(const u16*)block) * (float)gs_iq4(gs_one_code(block + 2, i));
  }
};
struct q51 {  // blocks of 32: two halves, scale and minimum, 4 bytes of fifth bits, 16 bytes of codes
  enum { AHEAD = 1, SIZE = 0 };
  struct Raw { uint2 v; u32 high; u16 d, m; };
  GS_DEV Raw load(const u8* row, int i, int left) {
    const u8* block = row + i / 32 * 24;
    const u16* ends = (const u16*)block;
    return {gs_eight_codes((const u16*)(block + 8), i), *(const u32*)(block + 4) >> i % 32, ends[0], ends[1]};
  }
  GS_DEV float scaled(u16 d, u16 m, int code) { return gs_product(gs_half(d), (float)code) + gs_half(m); }
  GS_DEV float value(const Raw& r, int i) { return scaled(r.d, r.m, gs_byte(r.v, i) | (r.high >> i & 1) << 4); }
  GS_DEV float at(const u8* row, int i, i64) {
    const u8* block = row + i / 32 * 24;
    const u16* ends = (const u16*)block;
    const int high = *(const u32*)(block + 4) >> i % 32 & 1;
    return scaled(ends[0], ends[1], gs_one_code(block + 8, i) | high << 4);
  }
};
struct q8kv {  // a row: a float that scales all of it, 4 bytes that are not read here, and a byte for each element
  enum { AHEAD = 1, SIZE = 0 };
  struct Raw { uint2 v; float d; };
  GS_DEV Raw load(const u8* row, int i, int left) { return {*(const uint2*)(row + 8 + i), *(const float*)row}; }
  GS_DEV float value(const Raw& r, int i) { return r.d * (float)(i8)gs_byte(r.v, i); }
  GS_DEV float at(const u8* row, int i, i64) { return *(const float*)row * (float)(i8)row[8 + i]; }
};
