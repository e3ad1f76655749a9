// Mat-vec for 1 to 8 tokens on float weights: products and sums in float32. Rows of w start at multiples of 16 bytes
// (`pitch` steps of 16 bytes a row, zero-padded); rows of x at multiples of 4 floats. Grid and `split` as in matmul.cu.
#include "activation.cuh"
#include "matvec.cuh"

struct f16 {
  enum { PER = 8 };
  GS_DEV float value(const uint4& v, int i) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
    return i % 2 ? gs_high_half(w[i / 2]) : gs_low_half(w[i / 2]);
  }
};
struct bf16 {
  enum { PER = 8 };
  GS_DEV float value(const uint4& v, int i) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
    return gs_bits(i % 2 ? w[i / 2] & 0xffff0000 : w[i / 2] << 16);
  }
};
struct f32 {
  enum { PER = 4 };
  GS_DEV float value(const uint4& v, int i) {
    const u32 w[4] = {v.x, v.y, v.z, v.w};
    return gs_bits(w[i]);
  }
};

template <int PER> GS_DEV void gs_floats(float (&x)[PER], const float* from, int left) {
  if (left >= PER) {
#pragma unroll
    for (int i = 0; i < PER; i += 4) {
      const float4 v = *(const float4*)(from + i);
      x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < PER; i++) x[i] = i < left ? from[i] : 0.0f;
  }
}

// sums of R rows, whose slice 0 of K has them in lane 0; not `valid`: zeros
template <class T, int NT, int R, int U>
GS_DEV void gs_dots(float (&acc)[NT][R], const u8* const (&row)[R], const float* x, int tokens, int k, int pitch,
                    i64 x_stride, int split, const Place& at, bool valid) {
  const int stride = 32 * split;
  for (int s0 = at.slice * 32 + at.lane; valid && s0 < pitch; s0 += stride * U) {
    uint4 raw[U][R];
#pragma unroll
    for (int u = 0; u < U; u++)
#pragma unroll
      for (int r = 0; r < R; r++)
        if (s0 + u * stride < pitch) raw[u][r] = gs_weights16(row[r] + (i64)(s0 + u * stride) * 16);
#pragma unroll
    for (int u = 0; u < U; u++) {
      const int s = s0 + u * stride;
      if (s >= pitch) break;
#pragma unroll
      for (int t = 0; t < NT; t++) {
        float a[T::PER];
        gs_floats<T::PER>(a, x + (i64)gs_min(t, tokens - 1) * x_stride + s * T::PER, k - s * T::PER);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int i = 0; i < T::PER; i++) acc[t][r] = fmaf(T::value(raw[u][r], i), a[i], acc[t][r]);
      }
    }
  }
  gs_reduce<NT, R>(acc, split);
}
// a row group of one matrix
template <class T, int NT, int R, int U>
GS_DEV void gs_product(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch, i64 x_stride,
                       int y_stride, int split, const Place& at, bool valid) {
  const u8* row[R];
#pragma unroll
  for (int r = 0; r < R; r++) row[r] = w + (i64)gs_min(at.row + r, rows - 1) * pitch * 16;
  float acc[NT][R] = {};
  gs_dots<T, NT, R, U>(acc, row, x, tokens, k, pitch, x_stride, split, at, valid);
  gs_store<NT, R>(acc, at, y, tokens, rows, y_stride);
}
// the first cache line of a lane's share of a row
GS_DEV void gs_fetch_row(const u8* row, const Place& at, int pitch) {
  if ((at.slice * 32 + at.lane) * 8 < pitch) gs_prefetch_l2(row + (at.slice * 32 + at.lane) * 128);
}

template <class T, int NT, int R, int U>
GS_DEV void gs_matvec_floats(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch,
                             int x_stride, int y_stride, int split, i64 w_next, i64 x_next, i64 y_next) {
  const Place at = gs_place<R>(split);
  const u8* matrix = w + blockIdx.y * w_next;
#pragma unroll
  for (int r = 0; r < R; r++) gs_fetch_row(matrix + (i64)gs_min(at.row + r, rows - 1) * pitch * 16, at, pitch);
  gs_pdl_launch();
  gs_pdl_wait();
  const int t0 = blockIdx.z * NT;
  gs_product<T, NT, R, U>(matrix, x + (i64)t0 * x_stride + blockIdx.y * x_next,
                          y + (i64)t0 * y_stride + blockIdx.y * y_next, gs_min(NT, tokens - t0), rows, k, pitch,
                          x_stride, y_stride, split, at, true);
}
// y[t, u] = w[ids[t, u]] x[t, u or 0]; ids outside the range give zeros. Grid (row groups, used, tokens)
template <class T>
GS_DEV void gs_matvec_id_floats(const u8* w, const int* ids, const float* x, float* y, int n_expert, int rows, int k,
                                int pitch, i64 x_token, i64 x_slot, int split) {
  gs_pdl_launch();
  gs_pdl_wait();
  const i64 slot = (i64)blockIdx.z * gridDim.y + blockIdx.y;
  const int e = ids[slot];
  const bool valid = e >= 0 && e < n_expert;
  gs_product<T, 1, 2, 2>(w + (i64)(valid ? e : 0) * rows * pitch * 16, x + blockIdx.z * x_token + blockIdx.y * x_slot,
                         y + slot * rows, 1, rows, k, pitch, 0, rows, split, gs_place<2>(split), valid);
}

// one token and up to three matrices, laid out as for gs_matvec_fused
template <class T, int R, int U> GS_DEV void gs_fused_floats(const Share (&all)[3], const float* x, int k, int pitch) {
  int block = blockIdx.x;
  const Share s = gs_share(all, R, block);
  const Place at = gs_place<R>(s.split, block);
#pragma unroll
  for (int r = 0; r < R; r++) gs_fetch_row(s.w + (i64)gs_min(at.row + r, s.rows - 1) * pitch * 16, at, pitch);
  gs_pdl_launch();
  gs_pdl_wait();
  gs_product<T, 1, R, U>(s.w, x, s.y, 1, s.rows, k, pitch, 0, s.rows, s.split, at, true);
}
// y = f(gate x) * (up x) for one token
template <class T>
GS_DEV void gs_up_gate_floats(const u8* up, const u8* gate, const float* x, float* y, int rows, int k, int pitch,
                              int how, int split) {
  const Place at = gs_place<1>(split);
  const i64 skip = (i64)gs_min(at.row, rows - 1) * pitch * 16;
  const u8* const row[2] = {gate + skip, up + skip};
  gs_fetch_row(row[0], at, pitch);
  gs_fetch_row(row[1], at, pitch);
  gs_pdl_launch();
  gs_pdl_wait();
  float acc[1][2] = {};
  gs_dots<T, 1, 2, 2>(acc, row, x, 1, k, pitch, 0, split, at, true);
  if (!at.slice && !at.lane && at.row < rows) y[at.row] = gs_activate(acc[0][0], how) * acc[0][1];
}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_1_TYPE(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch, int x_stride,
                  int y_stride, int split, i64 w_next, i64 x_next, i64 y_next) {
  gs_matvec_floats<TYPE, 1, GS_ROWS, GS_UNROLL>(w, x, y, tokens, rows, k, pitch, x_stride, y_stride, split, w_next,
                                                x_next, y_next);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_2_TYPE(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch, int x_stride,
                  int y_stride, int split, i64 w_next, i64 x_next, i64 y_next) {
  gs_matvec_floats<TYPE, 2, 2, 2>(w, x, y, tokens, rows, k, pitch, x_stride, y_stride, split, w_next, x_next, y_next);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_4_TYPE(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch, int x_stride,
                  int y_stride, int split, i64 w_next, i64 x_next, i64 y_next) {
  gs_matvec_floats<TYPE, 4, 2, 2>(w, x, y, tokens, rows, k, pitch, x_stride, y_stride, split, w_next, x_next, y_next);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_8_TYPE(const u8* w, const float* x, float* y, int tokens, int rows, int k, int pitch, int x_stride,
                  int y_stride, int split, i64 w_next, i64 x_next, i64 y_next) {
  gs_matvec_floats<TYPE, 8, 2, 1>(w, x, y, tokens, rows, k, pitch, x_stride, y_stride, split, w_next, x_next, y_next);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_id_TYPE(const u8* w, const int* ids, const float* x, float* y, int n_expert, int rows, int k, int pitch,
                   i64 x_token, i64 x_slot, int split) {
  gs_matvec_id_floats<TYPE>(w, ids, x, y, n_expert, rows, k, pitch, x_token, x_slot, split);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_fused_TYPE(const u8* w, float* y, int rows, int split, const u8* w1, float* y1, int rows1, int split1,
                       const u8* w2, float* y2, int rows2, int split2, const float* x, int k, int pitch) {
  const Share all[3] = {{w, y, rows, split}, {w1, y1, rows1, split1}, {w2, y2, rows2, split2}};
  gs_fused_floats<TYPE, GS_ROWS, GS_UNROLL>(all, x, k, pitch);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    up_gate_TYPE(const u8* up, const u8* gate, const float* x, float* y, int rows, int k, int pitch, int how,
                 int split) {
  gs_up_gate_floats<TYPE>(up, gate, x, y, rows, k, pitch, how, split);
}
