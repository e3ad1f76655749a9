// Decoders of the repacked weight types (launch/layout.py describes the layout, packing/ writes it). A tensor consists
// of a few planes, one after the other, each starting at a multiple of 256 bytes and each row-major: low bits (q), high
// bits (h), scales per 32 weights (s), superblock headers per 256 weights (b), and one float per row (f). A step is
// what one lane loads at a time: N units of 32 weights. load() gets the 16 low bytes of its step as an argument.
// unpack() decodes a unit into 32 signed bytes in order, v[0] holding weights 0..3, with weight = d*v + m; d and m may
// differ between the unit's halves of 16 (index 0 and 1).
#include "iq4.cuh"

struct Unit {
  u32 v[8];
  float d[2], m[2];
};
struct Row {
  const u8 *q, *h, *s, *b, *f;
};
GS_DEV i64 gs_plane(i64 bytes) { return (bytes + 255) / 256 * 256; }
GS_DEV i64 gs_row_bytes(int units, int per_unit) { return (i64)units * per_unit; }

// bytes of a tensor of `rows` rows of `units` units: what one expert occupies
template <class T> GS_DEV i64 gs_tensor_bytes(int rows, int units) {
  return gs_plane((i64)rows * units * T::Q) + gs_plane((i64)rows * units * T::H) + gs_plane((i64)rows * units * T::S) +
         gs_plane((i64)rows * (units / 8) * T::B) + gs_plane((i64)rows * T::F);
}
template <class T> GS_DEV Row gs_row(const u8* w, int rows, int units, int row) {
  const i64 all = (i64)rows * units, at = (i64)row * units;
  const u8* h = w + gs_plane(all * T::Q);
  const u8* s = h + gs_plane(all * T::H);
  const u8* b = s + gs_plane(all * T::S);
  const u8* f = b + gs_plane(all / 8 * T::B);
  return {w + at * T::Q, h + at * T::H, s + at * T::S, b + at / 8 * T::B, f + (i64)row * T::F};
}

// bit fields → bytes; word w holds weights 4w..4w+3
GS_DEV void gs_nibbles(const uint4& q, u32 (&v)[8]) {  // low nibbles are weights 0..15, high ones 16..31
  const u32 w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = w[i] & 0x0f0f0f0f, v[i + 4] = w[i] >> 4 & 0x0f0f0f0f;
}
GS_DEV void gs_crumbs(u32 lo, u32 hi, u32 (&v)[8]) {  // bits 8b + 2(w%4) of word w/4 hold weight 4w+b
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = (i < 4 ? lo : hi) >> (2 * (i % 4)) & 0x03030303;
}
template <int AT> GS_DEV void gs_or_bit(u32 h, u32 (&v)[8]) {  // bit 8b + w of h is bit AT of weight 4w+b
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] |= (i <= AT ? h << (AT - i) : h >> (i - AT)) & 0x01010101u << AT;
}
GS_DEV void gs_or_crumb(const uint2& h, u32 (&v)[8]) {  // as gs_crumbs, for bits 4 and 5
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const u32 word = i < 4 ? h.x : h.y;
    v[i] |= (i % 4 < 2 ? word << (4 - 2 * (i % 4)) : word >> (2 * (i % 4) - 4)) & 0x30303030;
  }
}
template <int N> GS_DEV void gs_minus(u32 (&v)[8]) {  // v - N in each byte; v < 128, N <= 128, no carry crosses a byte
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = (v[i] + 0x01010101u * (128 - N)) ^ 0x80808080u;
}
GS_DEV void gs_lookup(const uint4& q, const u32 (&table)[4], u32 (&v)[8]) {  // nibbles in the order of the weights
  const u32 w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const u32 index = w[i] & 0x77777777, pick = (w[i] >> 1 & 0x44444444) | 0x32103210;
    v[2 * i] = gs_lookup4(index, pick, table), v[2 * i + 1] = gs_lookup4(index >> 16, pick >> 16, table);
  }
}
GS_DEV void gs_same(Unit& u, float d, float m) { u.d[0] = u.d[1] = d, u.m[0] = u.m[1] = m; }
GS_DEV float gs_low_half(u32 v) { return gs_half((u16)v); }
GS_DEV float gs_high_half(u32 v) { return gs_half((u16)(v >> 16)); }

template <class T> GS_DEV typename T::Raw gs_step(const Row& p, int i) {
  const uint4 q = gs_weights16(p.q + i * 16);
  return T::load(p, i, q, T::MORE ? gs_weights16(T::more(p, i)) : q);
}

// codes(): as unpack(), but for ZERO, which is still to be taken off every weight.
// HALVES: scales differ between halves of 16. MIN: 0 no minimum, 1 one per unit, 2 one per half.
// MORE: a step has 16 more bytes in one piece (`more`), which come in the same way as the low bits.
#define GS_TYPE_MORE(n, q, h, s, b, f, halves, min, has) \
  enum { N = n, Q = q, H = h, S = s, B = b, F = f, HALVES = halves, MIN = min, MORE = has }
#define GS_TYPE(n, q, h, s, b, f, halves, min)    \
  GS_TYPE_MORE(n, q, h, s, b, f, halves, min, 0); \
  GS_DEV const u8* more(const Row&, int) { return nullptr; }
template <class T> struct gs_codes {
  enum { ZERO = 0 };
  GS_DEV void unpack(const typename T::Raw& r, int n, int step, Unit& u) { T::unpack(r, n, step, u); }
};
template <class T, int OFF> struct gs_off_zero {
  enum { ZERO = OFF };
  GS_DEV void unpack(const typename T::Raw& r, int n, int step, Unit& u) { T::codes(r, n, step, u); }
};

struct q4_0 {
  GS_TYPE(1, 16, 0, 2, 0, 0, 0, 1);
  struct Raw { uint4 q; u16 d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights2(p.s + i * 2)}; }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const float d = gs_half(r.d);
    gs_nibbles(r.q, u.v);
    gs_same(u, d, -8.0f * d);
  }
};
struct q4_1 {
  GS_TYPE(1, 16, 0, 4, 0, 0, 0, 1);
  struct Raw { uint4 q; u32 dm; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights4(p.s + i * 4)}; }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    gs_nibbles(r.q, u.v);
    gs_same(u, gs_low_half(r.dm), gs_high_half(r.dm));
  }
};
struct q5_0 {
  GS_TYPE(1, 16, 4, 2, 0, 0, 0, 1);
  struct Raw { uint4 q; u32 h; u16 d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights4(p.h + i * 4), gs_weights2(p.s + i * 2)};
  }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const float d = gs_half(r.d);
    gs_nibbles(r.q, u.v);
    gs_or_bit<4>(r.h, u.v);
    gs_same(u, d, -16.0f * d);
  }
};
struct q5_1 {
  GS_TYPE(1, 16, 4, 4, 0, 0, 0, 1);
  struct Raw { uint4 q; u32 h, dm; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights4(p.h + i * 4), gs_weights4(p.s + i * 4)};
  }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    gs_nibbles(r.q, u.v);
    gs_or_bit<4>(r.h, u.v);
    gs_same(u, gs_low_half(r.dm), gs_high_half(r.dm));
  }
};
struct q8_0 {  // plane q has weights 0..15 of each unit, plane h 16..31, so that both loads coalesce
  GS_TYPE_MORE(1, 16, 16, 2, 0, 0, 0, 0, 1);
  struct Raw { uint4 q, more; u16 d; };
  GS_DEV const u8* more(const Row& p, int i) { return p.h + i * 16; }
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4& more) {
    return {q, more, gs_weights2(p.s + i * 2)};
  }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    u.v[0] = r.q.x, u.v[1] = r.q.y, u.v[2] = r.q.z, u.v[3] = r.q.w;
    u.v[4] = r.more.x, u.v[5] = r.more.y, u.v[6] = r.more.z, u.v[7] = r.more.w;
    gs_same(u, gs_half(r.d), 0.0f);
  }
};
struct iq4_nl {
  GS_TYPE(1, 16, 0, 2, 0, 0, 0, 0);
  struct Raw { uint4 q; u16 d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights2(p.s + i * 2)}; }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const u32 table[4] = GS_IQ4_VALUES;
    gs_lookup(r.q, table, u.v);
    gs_same(u, gs_half(r.d), 0.0f);
  }
};
struct iq4_xs {  // a signed byte of scale per unit, a half per superblock
  GS_TYPE(1, 16, 0, 1, 2, 0, 0, 0);
  struct Raw { uint4 q; u16 d; i8 s; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights2(p.b + i / 8 * 2), (i8)gs_weights1(p.s + i)};
  }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const u32 table[4] = GS_IQ4_VALUES;
    gs_lookup(r.q, table, u.v);
    gs_same(u, gs_half(r.d) * (float)r.s, 0.0f);
  }
};
struct mxfp4 {  // the table holds twice the values, so the scale is 2^(e-128); e < 2 is subnormal
  GS_TYPE(1, 16, 0, 1, 0, 0, 0, 0);
  struct Raw { uint4 q; u8 e; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights1(p.s + i)}; }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const u32 table[4] = {0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc};
    gs_lookup(r.q, table, u.v);
    gs_same(u, gs_bits(r.e < 2 ? 0x200000u << r.e : (u32)(r.e - 1) << 23), 0.0f);
  }
};

// Q4_K, Q5_K: a header of 16 bytes per superblock: d, dmin, then 8 × 12 bits (6 of scale, 6 of minimum)
GS_DEV void gs_k_scales(const uint4& b, int step, Unit& u) {
  const int j = step % 8;
  const u32 lo = j < 3 ? b.y : j < 6 ? b.z : b.w, hi = j < 3 ? b.z : b.w;
  const u32 both = (u32)(((u64)hi << 32 | lo) >> (12 * j % 32));
  gs_same(u, gs_low_half(b.x) * (float)(both & 63), -gs_high_half(b.x) * (float)(both >> 6 & 63));
}
struct q4_k {
  GS_TYPE_MORE(1, 16, 0, 0, 16, 0, 0, 1, 1);
  struct Raw { uint4 q, more; };
  GS_DEV const u8* more(const Row& p, int i) { return p.b + i / 8 * 16; }
  GS_DEV Raw load(const Row&, int, const uint4& q, const uint4& more) { return {q, more}; }
  GS_DEV void unpack(const Raw& r, int, int step, Unit& u) {
    gs_nibbles(r.q, u.v);
    gs_k_scales(r.more, step, u);
  }
};
struct q5_k {
  GS_TYPE_MORE(1, 16, 4, 0, 16, 0, 0, 1, 1);
  struct Raw { uint4 q, more; u32 h; };
  GS_DEV const u8* more(const Row& p, int i) { return p.b + i / 8 * 16; }
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4& more) {
    return {q, more, gs_weights4(p.h + i * 4)};
  }
  GS_DEV void unpack(const Raw& r, int, int step, Unit& u) {
    gs_nibbles(r.q, u.v);
    gs_or_bit<4>(r.h, u.v);
    gs_k_scales(r.more, step, u);
  }
};
struct q6_k {
  GS_TYPE(1, 16, 8, 2, 2, 0, 1, 0);
  struct Raw { uint4 q; uint2 h; u16 s, d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights8(p.h + i * 8), gs_weights2(p.s + i * 2), gs_weights2(p.b + i / 8 * 2)};
  }
  GS_DEV void codes(const Raw& r, int, int, Unit& u) {
    const float d = gs_half(r.d);
    gs_nibbles(r.q, u.v);
    gs_or_crumb(r.h, u.v);
    u.d[0] = d * (float)(i8)r.s, u.d[1] = d * (float)(i8)(r.s >> 8);
    u.m[0] = u.m[1] = 0.0f;
  }
  GS_DEV void unpack(const Raw& r, int n, int step, Unit& u) {
    codes(r, n, step, u);
    gs_minus<32>(u.v);
  }
};
template <> struct gs_codes<q6_k> : gs_off_zero<q6_k, 32> {};

// two bits a weight: 16 bytes are two units
struct q2_k {
  GS_TYPE(2, 8, 0, 2, 4, 0, 1, 2);
  struct Raw { uint4 q; u32 s, dm; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights4(p.s + i * 4), gs_weights4(p.b + i / 4 * 4)};
  }
  GS_DEV void unpack(const Raw& r, int n, int, Unit& u) {
    const float d = gs_low_half(r.dm), dmin = gs_high_half(r.dm);
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const u32 s = r.s >> (16 * n + 8 * i);
      u.d[i] = d * (float)(s & 15), u.m[i] = -dmin * (float)(s >> 4 & 15);
    }
  }
};
struct q3_k {
  GS_TYPE(2, 8, 4, 2, 2, 0, 1, 0);
  struct Raw { uint4 q; uint2 h; u32 s; u16 d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights8(p.h + i * 8), gs_weights4(p.s + i * 4), gs_weights2(p.b + i / 4 * 2)};
  }
  GS_DEV void unpack(const Raw& r, int n, int step, Unit& u) {
    codes(r, n, step, u);
    gs_minus<4>(u.v);
  }
  GS_DEV void codes(const Raw& r, int n, int, Unit& u) {
    const float d = gs_half(r.d);
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
    gs_or_bit<2>(n ? r.h.y : r.h.x, u.v);
    u.d[0] = d * (float)(i8)(r.s >> (16 * n)), u.d[1] = d * (float)(i8)(r.s >> (16 * n + 8));
    u.m[0] = u.m[1] = 0.0f;
  }
};
template <> struct gs_codes<q3_k> : gs_off_zero<q3_k, 4> {};
struct iq2_bn {  // codes 0, 1, 2 for -1, 0, 1 and one scale a row; IQ1_BN and I2_S are repacked to this
  GS_TYPE(2, 8, 0, 0, 0, 4, 0, 1);
  struct Raw { uint4 q; u32 f; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights4(p.f)}; }
  GS_DEV void unpack(const Raw& r, int n, int, Unit& u) {
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
    gs_same(u, gs_bits(r.f), -gs_bits(r.f));
  }
};

// Types with codebooks (IQ1, IQ2, IQ3): their few values become 4-bit codes of a table, with a signed byte of scale per
// 16 weights and a half per superblock. That is more bytes than in the file, but needs no codebook lookup
template <u32 A, u32 B0, u32 C, u32 D, int PER> struct gs_coded {
  GS_TYPE(1, 16, 0, 2, 2, 0, 1, 0);
  struct Raw { uint4 q; u16 s, d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) {
    return {q, gs_weights2(p.s + i * 2), gs_weights2(p.b + i / 8 * 2)};
  }
  GS_DEV void unpack(const Raw& r, int, int, Unit& u) {
    const u32 table[4] = {A, B0, C, D};
    const float d = gs_half(r.d) * (1.0f / PER);  // PER is a power of two
    gs_lookup(r.q, table, u.v);
    u.d[0] = d * (float)(i8)r.s, u.d[1] = d * (float)(i8)(r.s >> 8);
    u.m[0] = u.m[1] = 0.0f;
  }
};
typedef gs_coded<0xf7f5f3f1, 0xfffdfbf9, 0x07050301, 0x0f0d0b09, 1> iq3_s;    // odd, -15 to 15
typedef gs_coded<0xdcd4ccc2, 0xfcf4ece4, 0x1c140c04, 0x3e342c24, 4> iq3_xxs;  // 4, 12, ... 52, 62 and their negatives
typedef gs_coded<0x08f8e7d5, 0x00002b19, 0, 0, 8> iq2_s;                      // 8, 25, 43; IQ2_XXS and IQ2_XS too
typedef gs_coded<0x01fff9f7, 0x00000907, 0, 0, 8> iq1_s;                      // 1, 7, 9: (-1, 0, 1) ± 1/8; IQ1_M too
struct tq2_0 {  // codes 0, 1, 2 for -1, 0, 1 and a half per superblock; TQ1_0 is repacked to this
  GS_TYPE(2, 8, 0, 0, 2, 0, 0, 1);
  struct Raw { uint4 q; u16 d; };
  GS_DEV Raw load(const Row& p, int i, const uint4& q, const uint4&) { return {q, gs_weights2(p.b + i / 4 * 2)}; }
  GS_DEV void unpack(const Raw& r, int n, int, Unit& u) {
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
    gs_same(u, gs_half(r.d), -gs_half(r.d));
  }
};
