// Weights of blocks as bf16, for products of many tokens by cuBLASLt: y[rows * k] from row `first` on of a matrix of
// `total` rows. A thread decodes a step of 32 * N weights. The results of a warp are consecutive in y; they go through
// shared memory so that each store of the warp covers 512 consecutive bytes. Pieces of 16 bytes are swizzled, so that
// neither writing nor reading shared memory has bank conflicts. Grid (ceil(rows * k / 32 / N / 128)).
#include "quants.cuh"

enum { GS_DECODERS = 128 };

template <class T> GS_DEV uint4 gs_eight_bf16(const Unit& u, int at) {  // weights at .. at + 7
  u32 pair[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float v[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int w = at + 2 * i + j, half = w / 16;
      const float code = (float)(i8)(u.v[w / 4] >> (8 * (w % 4)));
      v[j] = T::MIN ? fmaf(u.d[half], code, u.m[half]) : u.d[half] * code;
    }
    pair[i] = gs_pack_bf16(v[0], v[1]);
  }
  return make_uint4(pair[0], pair[1], pair[2], pair[3]);
}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(128)
    decode_TYPE(const u8* w, u16* y, int total, int first, int rows, int k) {
  enum { PIECES = 4 * TYPE::N };  // of 16 bytes, by one thread
  GS_SHARED(uint4, pieces, GS_DECODERS * PIECES);
  gs_pdl_launch();
  gs_pdl_wait();
  const int units = k / 32, steps = units / TYPE::N, lane = threadIdx.x % 32;
  const int at = blockIdx.x * GS_DECODERS + threadIdx.x, all = rows * steps, warp = at - lane;
  uint4* const warp_pieces = pieces + (threadIdx.x - lane) * PIECES;
  if (at < all) {
    const int row = at / steps, step = at % steps;
    const TYPE::Raw raw = gs_step<TYPE>(gs_row<TYPE>(w, total, units, first + row), step);
#pragma unroll
    for (int n = 0; n < TYPE::N; n++) {
      Unit u;
      TYPE::unpack(raw, n, step, u);
#pragma unroll
      for (int p = 0; p < 4; p++)
        warp_pieces[lane * PIECES + ((n * 4 + p) ^ (lane * PIECES / 8 % PIECES))] = gs_eight_bf16<TYPE>(u, p * 8);
    }
  }
  gs_sync();
#pragma unroll
  for (int j = 0; j < PIECES; j++) {
    const int i = j * 32 + lane, from = i / PIECES;  // whose piece it is
    if (warp + from < all)
      ((uint4*)y)[(i64)warp * PIECES + i] = warp_pieces[from * PIECES + (i % PIECES ^ (from * PIECES / 8 % PIECES))];
  }
}
