// Ops with recurrent state: short convolution, gated delta rule, selective scan. The tokens of a sequence are next to each
// other; their state is read once, kept in registers while they pass one after the other, and written once. A block has
// some rows (or channels) of the state, and the sequences whose first token here is in its part of the tokens. So what a
// token does depends on its own sequence only.
#include "common.cuh"

struct Where {  // of each token (slot, position, ...), `row` ints apart
  const int* at;
  int tokens, row;
  __device__ __forceinline__ int slot(int t) const { return at[(i64)t * row]; }
  __device__ __forceinline__ int position(int t) const { return at[(i64)t * row + 1]; }
  __device__ __forceinline__ bool begins(int t) const { return t == 0 || slot(t) != slot(t - 1) || position(t) == 0; }
  __device__ __forceinline__ int end(int t) const {  // behind the last token that follows t in its sequence
    const int s = slot(t), p = position(t);
    int low = t, high = tokens - 1;
    while (low < high) {
      const int middle = low + (high - low + 1) / 2;
      if (slot(middle) == s && position(middle) == p + middle - t) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  }
};
struct Part {  // of the tokens
  int first, end;
};
GS_DEV Part gs_part(int tokens, int number, int parts) {
  const int n = gs_ceil_div(tokens, parts);
  return {number * n, gs_min(tokens, (number + 1) * n)};
}

// LANES lanes share a row of k elements; lane l has elements (c * LANES + l) * 4 .. + 3, c = 0 .. E / 4 - 1, zeros
// behind the row. `whole`: rows are of whole 16 bytes
template <int LANES, int E> GS_DEV void gs_read(float (&v)[E], const float* row, int k, bool whole) {
  const int l = threadIdx.x % LANES;
#pragma unroll
  for (int c = 0; c < E / 4; c++) {
    const int i = (c * LANES + l) * 4;
    if (whole) {
      const float4 four = i < k ? *(const float4*)(row + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      v[c * 4] = four.x, v[c * 4 + 1] = four.y, v[c * 4 + 2] = four.z, v[c * 4 + 3] = four.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++) v[c * 4 + j] = i + j < k ? row[i + j] : 0.0f;
    }
  }
}
template <int LANES, int E> GS_DEV void gs_store(const float (&v)[E], float* row, int k, bool whole) {
  const int l = threadIdx.x % LANES;
#pragma unroll
  for (int c = 0; c < E / 4; c++) {
    const int i = (c * LANES + l) * 4;
    if (whole) {
      if (i < k) *(float4*)(row + i) = make_float4(v[c * 4], v[c * 4 + 1], v[c * 4 + 2], v[c * 4 + 3]);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (i + j < k) row[i + j] = v[c * 4 + j];
    }
  }
}
template <int LANES> GS_DEV float gs_lanes_sum(float v) {
#pragma unroll
  for (int m = LANES / 2; m > 0; m /= 2) v += gs_shfl_xor(v, m);
  return v;
}
GS_DEV bool gs_aligned(const void* p) { return (u64)p % 16 == 0; }
enum { GS_THREADS = 128 };
static __device__ constexpr int gs_lanes(int width) { return width <= 16 ? 4 : width <= 128 ? 8 : width / 16; }

struct Rows {  // of the state of a slot
  float* state;
  int heads, of_head, k;
};
// Passes over the tokens of each sequence with a row of its state: `token(t)` loads what a token needs, `change(row,
// token, t)` changes the row. Every lane calls it, those of rows that there are not with the last one
template <int LANES, int E, class Token, class Load, class Change>
GS_DEV void gs_scan(const Rows& rows, const Where& where, int row, bool valid, Load load, Change change) {
  const bool whole = rows.k % 4 == 0 && gs_aligned(rows.state);
  const Part part = gs_part(where.tokens, blockIdx.y, gridDim.y);
  for (int t = part.first; t < part.end;) {
    if (!where.begins(t)) {
      t++;
      continue;
    }
    const int end = where.end(t);
    float* const at = rows.state + ((i64)where.slot(t) * rows.heads * rows.of_head + row) * rows.k;
    float s[E] = {};
    Token now = load(t);
    if (where.position(t) != 0) gs_read<LANES>(s, at, rows.k, whole);
    for (; t < end; t++) {
      const Token next = load(gs_min(t + 1, end - 1));  // arrives while this one is computed
      change(s, now, t);
      now = next;
    }
    if (valid) gs_store<LANES>(s, at, rows.k, whole);
  }
}

struct Delta {  // strides in floats
  const float *q, *k, *v, *g, *beta;
  float *state, *y;
  int heads, keys, dk, dv, tiled;
  i64 q_token, q_head, k_token, k_head, v_token, v_head, g_token, g_head, beta_token, beta_head;
};
template <int E, bool BY_CHANNEL> struct DeltaToken {
  float q[E], k[E], g[BY_CHANNEL ? E : 1], v, beta;
};
// S = e^g S; S += beta (v - S k) k^T; y = S q / sqrt(dk) per head, g per head or per element of k. With S before the
// change, y = (S q + change (k q)) / sqrt(dk): one round of sums. Grid (ceil(heads * dv / rows of a block), parts)
template <int WIDTH, bool BY_CHANNEL> GS_DEV void gs_delta(const Delta& d, const Where& where) {
  constexpr int LANES = gs_lanes(WIDTH), E = WIDTH / LANES, PER_BLOCK = GS_THREADS / LANES;
  typedef DeltaToken<E, BY_CHANNEL> Token;
  gs_pdl_launch();
  gs_pdl_wait();
  const int wanted = blockIdx.x * PER_BLOCK + threadIdx.x / LANES, rows = d.heads * d.dv;
  const int row = gs_min(wanted, rows - 1), head = row / d.dv, i = row % d.dv;
  const int key = d.tiled ? head % d.keys : head / (d.heads / d.keys);
  const float *q = d.q + key * d.q_head, *k = d.k + key * d.k_head, *v = d.v + head * d.v_head + i;
  const float *g = d.g + head * d.g_head, *beta = d.beta + head * d.beta_head;
  const bool whole = d.dk % 4 == 0 && gs_aligned(d.q) && gs_aligned(d.k) && (d.q_token | d.q_head) % 4 == 0 &&
                     (d.k_token | d.k_head) % 4 == 0;
  const bool g_whole = d.dk % 4 == 0 && gs_aligned(d.g) && (d.g_token | d.g_head) % 4 == 0;
  const float scale = 1.0f / sqrtf((float)d.dk);
  const auto load = [&](int t) {
    Token token;
    gs_read<LANES>(token.q, q + t * d.q_token, d.dk, whole);
    gs_read<LANES>(token.k, k + t * d.k_token, d.dk, whole);
    if constexpr (BY_CHANNEL) gs_read<LANES>(token.g, g + t * d.g_token, d.dk, g_whole);
    else token.g[0] = g[t * d.g_token];
    token.v = v[t * d.v_token], token.beta = beta[t * d.beta_token];
    return token;
  };
  const auto change = [&](float (&s)[E], const Token& token, int t) {
    float sk = 0.0f, sq = 0.0f, kq = 0.0f;
    const float decay = expf(token.g[0]);
#pragma unroll
    for (int j = 0; j < E; j++) {
      s[j] *= BY_CHANNEL ? expf(token.g[BY_CHANNEL ? j : 0]) : decay;
      sk = fmaf(s[j], token.k[j], sk), sq = fmaf(s[j], token.q[j], sq), kq = fmaf(token.k[j], token.q[j], kq);
    }
    sk = gs_lanes_sum<LANES>(sk), sq = gs_lanes_sum<LANES>(sq), kq = gs_lanes_sum<LANES>(kq);
    const float by = token.beta * (token.v - sk);
#pragma unroll
    for (int j = 0; j < E; j++) s[j] = fmaf(by, token.k[j], s[j]);
    if (wanted < rows && threadIdx.x % LANES == 0) d.y[(i64)t * rows + row] = fmaf(by, kq, sq) * scale;
  };
  gs_scan<LANES, E, Token>(Rows{d.state, d.heads, d.dv, d.dk}, where, row, wanted < rows, load, change);
}

struct Scan {  // strides in floats
  const float *x, *dt, *a, *b, *c;
  float *state, *y;
  int heads, width, groups, n;
  i64 x_token, x_head, dt_token, dt_head, a_head, b_token, b_group, c_token, c_group;
};
template <int E> struct ScanToken {
  float b[E], c[E], x, dt;
};
// d = softplus(dt); S = e^(d a) S + d x b^T; y = S c per head, a per head or per element of b. Grid (ceil(heads * width /
// rows of a block), parts)
template <int WIDTH, bool BY_CHANNEL> GS_DEV void gs_ssm_scan(const Scan& d, const Where& where) {
  constexpr int LANES = gs_lanes(WIDTH), E = WIDTH / LANES, PER_BLOCK = GS_THREADS / LANES;
  typedef ScanToken<E> Token;
  gs_pdl_launch();
  gs_pdl_wait();
  const int wanted = blockIdx.x * PER_BLOCK + threadIdx.x / LANES, rows = d.heads * d.width;
  const int row = gs_min(wanted, rows - 1), head = row / d.width, group = head / (d.heads / d.groups);
  const float *x = d.x + head * d.x_head + row % d.width, *dt = d.dt + head * d.dt_head;
  const float *b = d.b + group * d.b_group, *c = d.c + group * d.c_group;
  const bool whole = d.n % 4 == 0 && gs_aligned(d.b) && gs_aligned(d.c) && (d.b_token | d.b_group) % 4 == 0 &&
                     (d.c_token | d.c_group) % 4 == 0;
  float a[BY_CHANNEL ? E : 1];
  if constexpr (BY_CHANNEL) gs_read<LANES>(a, d.a + head * d.a_head, d.n, false);
  else a[0] = d.a[head * d.a_head];
  const auto load = [&](int t) {
    Token token;
    gs_read<LANES>(token.b, b + t * d.b_token, d.n, whole);
    gs_read<LANES>(token.c, c + t * d.c_token, d.n, whole);
    token.x = x[t * d.x_token], token.dt = dt[t * d.dt_token];
    return token;
  };
  const auto change = [&](float (&s)[E], const Token& token, int t) {
    const float step = token.dt > 20.0f ? token.dt : log1pf(expf(token.dt)), by = step * token.x;
    const float decay = expf(step * a[0]);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < E; j++) {
      s[j] = fmaf(s[j], BY_CHANNEL ? expf(step * a[BY_CHANNEL ? j : 0]) : decay, by * token.b[j]);
      sum = fmaf(s[j], token.c[j], sum);
    }
    sum = gs_lanes_sum<LANES>(sum);
    if (wanted < rows && threadIdx.x % LANES == 0) d.y[(i64)t * rows + row] = sum;
  };
  gs_scan<LANES, E, Token>(Rows{d.state, d.heads, d.width, d.n}, where, row, wanted < rows, load, change);
}

// y[t, c] = sum_i w[c, i] x[t - k + 1 + i, c], a thread a channel; state [slots, k - 1, channels] has the rows before the
// first token. The first k - 1 tokens of a sequence are computed by the block that has its first one, as they read the
// state that this block writes. Grid (ceil(channels / threads), parts)
enum { GS_TAPS = 8 };
extern "C" __global__ void __launch_bounds__(256)
    ssm_conv(float* state, const float* x, const float* w, float* y, const int* where, int tokens, int where_row,
             int channels, int k, i64 x_token, i64 w_row) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int c = blockIdx.x * blockDim.x + threadIdx.x, before = k - 1;
  if (c >= channels) return;
  const Where of = {where, tokens, where_row};
  const Part part = gs_part(tokens, blockIdx.y, gridDim.y);
  float taps[GS_TAPS], rows[GS_TAPS], old[GS_TAPS];
#pragma unroll
  for (int i = 0; i < GS_TAPS; i++) taps[i] = i < k ? w[c * w_row + i] : 0.0f;
  const auto pass = [&](int t, int end) {  // over tokens, `rows` are those before the first
    for (; t < end; t++) {
      float sum = 0.0f;
      const float last = x[t * x_token + c];
#pragma unroll
      for (int i = 0; i < GS_TAPS; i++)
        if (i < k) sum = fmaf(taps[i], i < before ? rows[i] : last, sum);
#pragma unroll
      for (int i = 0; i < GS_TAPS; i++) rows[i] = i + 1 < GS_TAPS && i + 1 < before ? rows[i + 1] : last;
      y[(i64)t * channels + c] = sum;
    }
  };
  for (int t = part.first; t < part.end;) {
    int first = t;  // of its sequence, as far as that matters
    while (first > t - before && !of.begins(first)) first--;
    const int end = of.end(t);
    if (first == t && of.begins(t)) {
      float* const own = state + (i64)of.slot(t) * before * channels + c;
#pragma unroll
      for (int i = 0; i < GS_TAPS; i++)
        rows[i] = old[i] = i < before && of.position(t) != 0 ? own[(i64)i * channels] : 0.0f;
      pass(t, gs_min(end, t + before > part.end ? t + before : part.end));
#pragma unroll
      for (int i = 0; i < GS_TAPS; i++)
        if (i < before) {
          const int from = end - t + i - before;  // of x, counted from its first token; below 0 of the old rows
          float v = from >= 0 ? x[(t + from) * x_token + c] : 0.0f;
#pragma unroll
          for (int j = 0; j < GS_TAPS; j++)
            if (from + before == j && from < 0) v = old[j];
          own[(i64)i * channels] = v;
        }
    } else {
      const int begin = of.begins(first) ? gs_min(first + before, end) : t;
#pragma unroll
      for (int i = 0; i < GS_TAPS; i++)
        rows[i] = i < before && begin < end ? x[(begin - before + i) * x_token + c] : 0.0f;
      pass(begin, gs_min(end, part.end));
    }
    t = end;
  }
}

// the parameters of the kernels below
#define GS_DELTA                                                                                                  \
  Delta{q, k, v, g, beta, state, y, heads, keys, dk, dv, tiled, q_token, q_head, k_token, k_head, v_token, v_head, \
        g_token, g_head, beta_token, beta_head},                                                                  \
      Where{where, tokens, where_row}
#define GS_SCAN                                                                                                     \
  Scan{x, dt, a, b, c, state, y, heads, width, groups, n, x_token, x_head, dt_token, dt_head, a_head, b_token,      \
       b_group, c_token, c_group},                                                                                  \
      Where{where, tokens, where_row}

//@ for WIDTH
extern "C" __global__ void __launch_bounds__(128, 2)
    delta_WIDTH(const float* q, const float* k, const float* v, const float* g, const float* beta, float* state,
                float* y, const int* where, int tokens, int where_row, int heads, int keys, int dk, int dv, int tiled,
                i64 q_token, i64 q_head, i64 k_token, i64 k_head, i64 v_token, i64 v_head, i64 g_token, i64 g_head,
                i64 beta_token, i64 beta_head) {
  gs_delta<WIDTH, false>(GS_DELTA);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    delta_channels_WIDTH(const float* q, const float* k, const float* v, const float* g, const float* beta,
                         float* state, float* y, const int* where, int tokens, int where_row, int heads, int keys,
                         int dk, int dv, int tiled, i64 q_token, i64 q_head, i64 k_token, i64 k_head, i64 v_token,
                         i64 v_head, i64 g_token, i64 g_head, i64 beta_token, i64 beta_head) {
  gs_delta<WIDTH, true>(GS_DELTA);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    ssm_scan_WIDTH(const float* x, const float* dt, const float* a, const float* b, const float* c, float* state,
                   float* y, const int* where, int tokens, int where_row, int heads, int width, int groups, int n,
                   i64 x_token, i64 x_head, i64 dt_token, i64 dt_head, i64 a_head, i64 b_token, i64 b_group,
                   i64 c_token, i64 c_group) {
  gs_ssm_scan<WIDTH, false>(GS_SCAN);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    ssm_scan_channels_WIDTH(const float* x, const float* dt, const float* a, const float* b, const float* c,
                            float* state, float* y, const int* where, int tokens, int where_row, int heads, int width,
                            int groups, int n, i64 x_token, i64 x_head, i64 dt_token, i64 dt_head, i64 a_head,
                            i64 b_token, i64 b_group, i64 c_token, i64 c_group) {
  gs_ssm_scan<WIDTH, true>(GS_SCAN);
}
