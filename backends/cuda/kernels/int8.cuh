// A unit of weights for the int8 tensor cores: 32 signed bytes with one scale wherever the type allows, else one per
// half. Unlike in the mat-vecs, zero points, the 4-bit scales of 2-bit weights and the 6-bit scales of 3-bit weights
// are folded into the bytes, because each scale applied after a product costs four instructions per lane, and a byte
// none. BIAS is above any sum of a unit (with HALVES: of half a unit) for activations of at most 127.
#include "quants.cuh"

template <class T, int MOST> struct gs_plain {  // HALVES, MIN as in quants.cuh
  enum { HALVES = T::HALVES, MIN = T::MIN, BIAS = MOST };
  GS_DEV void unpack(const typename T::Raw& r, int n, int step, Unit& u) { T::unpack(r, n, step, u); }
};
template <class T> struct gs_int8 : gs_plain<T, 1 << 19> {};  // 32 * 128 * 127 and less
template <> struct gs_int8<q6_k> : gs_plain<q6_k, 1 << 16> {};    // 16 * 32 * 127
template <> struct gs_int8<iq2_s> : gs_plain<iq2_s, 1 << 17> {};  // 16 * 43 * 127
template <> struct gs_int8<iq1_s> : gs_plain<iq1_s, 1 << 15> {};  // 16 * 9 * 127
// bit fields into the high bits of a byte, whose top bit is the weight's sign once it is flipped
GS_DEV void gs_high_nibbles(const uint4& q, u32 (&v)[8]) {
  const u32 w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = w[i] << 4 & 0xf0f0f0f0, v[i + 4] = w[i] & 0xf0f0f0f0;
}
GS_DEV void gs_flip(u32 (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] ^= 0x80808080;
}
template <> struct gs_int8<q4_0> {  // 16 (q - 8)
  enum { HALVES = 0, MIN = 0, BIAS = 1 << 19 };
  GS_DEV void unpack(const q4_0::Raw& r, int, int, Unit& u) {
    gs_high_nibbles(r.q, u.v);
    gs_flip(u.v);
    u.d[0] = gs_half(r.d) * 0.0625f;
  }
};
template <> struct gs_int8<q5_0> {  // 8 (q - 16)
  enum { HALVES = 0, MIN = 0, BIAS = 1 << 19 };
  GS_DEV void unpack(const q5_0::Raw& r, int, int, Unit& u) {
    const u32 w[4] = {r.q.x, r.q.y, r.q.z, r.q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) u.v[i] = w[i] << 3 & 0x78787878, u.v[i + 4] = w[i] >> 1 & 0x78787878;
    gs_or_bit<7>(r.h, u.v);
    gs_flip(u.v);
    u.d[0] = gs_half(r.d) * 0.125f;
  }
};
template <class T> struct gs_ternary {  // q - 1
  enum { HALVES = 0, MIN = 0, BIAS = 1 << 19 };
  GS_DEV void unpack(const typename T::Raw& r, int n, int step, Unit& u) {
    T::unpack(r, n, step, u);
    gs_minus<1>(u.v);
  }
};
template <> struct gs_int8<iq2_bn> : gs_ternary<iq2_bn> {};
template <> struct gs_int8<tq2_0> : gs_ternary<tq2_0> {};
template <> struct gs_int8<q2_k> {  // q times its scale, at most 3 * 15; a minimum for each half
  enum { HALVES = 0, MIN = 2, BIAS = 1 << 19 };
  GS_DEV void unpack(const q2_k::Raw& r, int n, int, Unit& u) {
    const float dmin = -gs_high_half(r.dm);
    const u32 s = r.s >> 16 * n;
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
#pragma unroll
    for (int i = 0; i < 8; i++) u.v[i] *= i < 4 ? s & 15 : s >> 8 & 15;
    u.d[0] = gs_low_half(r.dm);
    u.m[0] = dmin * (float)(s >> 4 & 15), u.m[1] = dmin * (float)(s >> 12 & 15);
  }
};
template <> struct gs_int8<q3_k> {  // (4 - q) times its scale, -128 to 124; no carry or borrow crosses a byte
  enum { HALVES = 0, MIN = 0, BIAS = 1 << 19 };
  GS_DEV void unpack(const q3_k::Raw& r, int n, int, Unit& u) {
    gs_crumbs(n ? r.q.z : r.q.x, n ? r.q.w : r.q.y, u.v);
    gs_or_bit<2>(n ? r.h.y : r.h.x, u.v);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int s = (i8)(r.s >> (16 * n + 8 * half));  // -32 to 31
      const u32 zero = (128 + 4 * s) * 0x01010101u;
#pragma unroll
      for (int i = 0; i < 4; i++) u.v[4 * half + i] = (zero - u.v[4 * half + i] * s) ^ 0x80808080;
    }
    u.d[0] = -gs_half(r.d);
  }
};
// the file has one scale for both halves
template <class T> struct gs_one_scale {
  enum { HALVES = 0, MIN = 0, BIAS = 1 << 19 };
  GS_DEV void unpack(const typename T::Raw& r, int n, int step, Unit& u) { T::unpack(r, n, step, u); }
};
template <> struct gs_int8<iq3_s> : gs_one_scale<iq3_s> {};
template <> struct gs_int8<iq3_xxs> : gs_one_scale<iq3_xxs> {};
