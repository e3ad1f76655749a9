// Sparse attention: bits of the positions that an indexer chooses for each token, attention over these, and pools of keys.
// Position p of a token is bit p % 32 of word p / 32 of its row of bits: a word is a block of cells.
#include "cache.cuh"
#include "mask.cuh"

#define GS_LEAST -3.0e38f  // less than any score
enum { GS_BEST = 0x7f800000 };  // infinity among ordered integers

GS_DEV int gs_ordered(float v) {  // integers in the order of floats; 0 for -0
  const int bits = (int)gs_bits(v + 0.0f);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}
GS_DEV const u8* gs_row_at(const u8* rows, const int* table, int position, i64 apart) {
  return rows + (i64)gs_cell(table[gs_block_of(position)], position) * apart;
}
// how many of n integers are at least `least`; every thread gets it
GS_DEV int gs_count(const int* scores, int n, int least) {
  float count = 0.0f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) count += scores[i] >= least;
  return (int)gs_block_sum(count);
}

struct Choice {
  int dim, heads, groups, words, top_k, size, pooled, tail, local;
};
// The score of a position's key for a token, by one warp: of a group's head, or the weighted sum over all heads
template <class T>
GS_DEV float gs_score(const float* q, i64 q_head, const float* w, const u8* key, const Choice& c, int group) {
  const int lane = threadIdx.x % 32;
  const bool by_head = c.groups == c.heads && !w;
  float total = 0.0f;
#pragma unroll 1
  for (int h = by_head ? group : 0; h < (by_head ? group + 1 : c.heads); h++) {
    float sum = 0.0f;
#pragma unroll 1
    for (int i = lane; i < c.dim; i += 32) sum = fmaf(q[h * q_head + i], T::at(key, i, T::SIZE), sum);
    sum = gs_warp_sum(sum);
    if (by_head) return sum;
    total += fmaxf(sum, 0.0f) * (w ? w[h] : 1.0f);
  }
  return total;
}
// Sets the bits of the best units of `size` positions, of equal ones the first. A block takes rows [token, group] in
// turn; scores has `most` integers for each block. Grid (blocks)
template <class T>
GS_DEV void gs_choose(const float* q, const u8* k, const int* where, const int* table, const float* w, int* y,
                      int* scores, int rows, const Choice& c, int most, i64 q_token, i64 q_head, i64 k_token) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32;
  int* const mine = scores + (i64)blockIdx.x * most;
  GS_SHARED(int, cut, 1);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const int t = row / c.groups, group = row % c.groups;
    const Sight sight = gs_sight(Mask{where, 0, 0}, t);
    const int *own = table + sight.entry, end = sight.last + 1;
    const int n = c.pooled ? end / c.size : gs_ceil_div(end, c.size);
    for (int u = warp; u < n; u += warps) {
      float best = GS_LEAST;
      const int first = c.pooled ? u * c.size + c.size - 1 : u * c.size;
      for (int p = first; p < gs_min((u + 1) * c.size, end); p++) {
        const u8* key = gs_row_at(k, own, p, k_token);
        best = fmaxf(best, gs_score<T>(q + t * q_token, q_head, w ? w + (i64)t * c.heads : w, key, c, group));
      }
      if (lane == 0) mine[u] = !c.pooled && u >= n - c.local ? GS_BEST : gs_ordered(best);
    }
    gs_sync();
    int least = (int)0x80000000, left = n;
    if (n > c.top_k) {
      i64 low = -((i64)1 << 31), high = (i64)1 << 31;  // so many reach low, fewer reach high
      while (high - low > 1) {
        const i64 middle = (low + high) >> 1;
        if (gs_count(mine, n, (int)middle) >= c.top_k) low = middle;
        else high = middle;
      }
      least = (int)low;
      left = c.top_k - (least == 0x7fffffff ? 0 : gs_count(mine, n, least + 1));
    }
    if (threadIdx.x == 0) {  // up to where those that are just good enough are chosen
      int u = 0;
      for (; u < n && left > 0; u++) left -= mine[u] == least;
      *cut = u;
    }
    gs_sync();
    for (int i = warp; i < c.words; i += warps) {
      const int p = i * 32 + lane, u = p / c.size;
      const bool has = u < n && p < end && (mine[u] > least || (mine[u] == least && u < *cut));
      const bool in_tail = c.pooled && c.tail && u >= n && p < end;
      u32 bit = has || in_tail ? 1u << lane : 0u;
#pragma unroll
      for (int m = 16; m > 0; m >>= 1) bit |= gs_shfl_xor(bit, m);
      if (lane == 0) y[(i64)row * c.words + i] = (int)bit;
    }
    gs_sync();  // before the next row's scores
  }
}

struct Sparse {  // strides of q in floats, of caches in bytes
  int heads, group, dk, dv, words, groups;
  i64 q_token, q_head, k_token, k_head, v_token, v_head;
};
enum { GS_SPARSE_THREADS = 128, GS_MOST_VALUES = 8 };  // values of a thread: rows are at most 1024 wide
// The softmax of a query so far: sums of values against the highest score, `top`.
struct Weighed {
  float out[GS_MOST_VALUES], top, total;
};

// Adds 32 rows. key(i) and value(i): where the i-th is, null for none.
template <class T, class Key, class Value>
GS_DEV void gs_weigh_32(Weighed& so_far, float* scores, const float* query, int dk, int dv, float scale, Key key,
                        Value value) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = warp; i < 32; i += GS_SPARSE_THREADS / 32) {
    const u8* at = key(i);
    float sum = 0.0f;
    if (at)
      for (int d = lane; d < dk; d += 32) sum = fmaf(query[d], T::at(at, d, T::SIZE), sum);
    sum = gs_warp_sum(sum);
    if (lane == 0) scores[i] = at ? sum * scale : GS_LEAST;
  }
  gs_sync();
  const float best = fmaxf(so_far.top, gs_warp_max(scores[lane])), factor = expf(so_far.top - best);
  so_far.top = best, so_far.total *= factor;
#pragma unroll
  for (int j = 0; j < GS_MOST_VALUES; j++) so_far.out[j] *= factor;
  for (int i = 0; i < 32; i++) {
    const u8* at = value(i);
    if (!at) continue;
    const float p = expf(scores[i] - so_far.top);
    so_far.total += p;
#pragma unroll
    for (int j = 0; j < GS_MOST_VALUES; j++) {
      const int d = j * GS_SPARSE_THREADS + threadIdx.x;
      if (d < dv) so_far.out[j] = fmaf(p, T::at(at, d, T::SIZE), so_far.out[j]);
    }
  }
  gs_sync();  // before the next rows' scores
}

GS_DEV void gs_put_weighed(const Weighed& all, float* to, int dv) {
#pragma unroll
  for (int j = 0; j < GS_MOST_VALUES; j++) {
    const int d = j * GS_SPARSE_THREADS + threadIdx.x;
    if (d < dv) to[d] = all.total > 0.0f ? all.out[j] / all.total : 0.0f;
  }
}

// y[t, h] = softmax(scale * q[t, h] * k) * v over the positions whose bits are set, a word at a time. Grid (heads, tokens)
template <class T>
GS_DEV void gs_sparse_attn(const float* q, const u8* k, const u8* v, const int* where, const int* table,
                           const u32* chosen, float* y, const Sparse& s, float scale) {
  GS_SHARED(float, scores, 32);
  gs_pdl_launch();
  gs_pdl_wait();
  const int h = blockIdx.x, t = blockIdx.y, kv = h / s.group;
  const Sight sight = gs_sight(Mask{where, 0, 0}, t);
  const int* own = table + sight.entry;
  const u32* bits = chosen + ((i64)t * s.groups + (s.groups > 1 ? kv : 0)) * s.words;
  const float* query = q + t * s.q_token + h * s.q_head;
  const u8 *keys = k + kv * s.k_head, *values = v + kv * s.v_head;
  Weighed sums = {{}, GS_LEAST, 0.0f};
  for (int w = 0; w <= gs_block_of(sight.last); w++) {
    const int behind = sight.last + 1 - w * 32;
    const u32 word = bits[w] & (behind < 32 ? (1u << behind) - 1 : ~0u);
    if (!word) continue;
    const auto row = [&](const u8* rows, i64 stride, int i) {
      return word >> i & 1 ? rows + (i64)gs_cell(own[w], i) * stride : (const u8*)nullptr;
    };
    gs_weigh_32<T>(
        sums, scores, query, s.dk, s.dv, scale, [&](int i) { return row(keys, s.k_token, i); },
        [&](int i) { return row(values, s.v_token, i); });
  }
  gs_put_weighed(sums, y + ((i64)t * s.heads + h) * s.dv, s.dv);
}

// y[t] = sum of the rows of a token's unit of `size` positions up to its own, by the softmax of gates + bias channel by
// channel, or in equal shares without gates. `overlap`: also of the unit in front, whose channels are the first half of
// a row; those of its own are the second half. Grid (tokens, ceil(dim / 128))
template <class T>
GS_DEV void gs_pool(const u8* x, const int* where, const int* table, const u8* gates, const float* bias, float* y,
                    int dim, int size, int overlap, i64 x_token, i64 gates_token) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int t = blockIdx.x, d = blockIdx.y * blockDim.x + threadIdx.x;
  if (d >= dim) return;
  const Sight sight = gs_sight(Mask{where, 0, 0}, t);
  const int *own = table + sight.entry, unit = sight.last / size * size, width = dim * (1 + overlap);
  const int first = overlap ? gs_max(unit - size, 0) : unit, end = sight.last + 1;
  const auto channel = [&](int p) { return overlap && p >= unit ? d + dim : d; };
  const auto gate = [&](int p) {
    if (!gates) return 0.0f;
    return T::at(gs_row_at(gates, own, p, gates_token), channel(p), T::SIZE) + bias[p % size * width + channel(p)];
  };
  float top = GS_LEAST, total = 0.0f, sum = 0.0f;
  for (int p = first; p < end; p++) top = fmaxf(top, gate(p));
  for (int p = first; p < end; p++) {
    const float weight = expf(gate(p) - top);
    total += weight;
    sum = fmaf(weight, T::at(gs_row_at(x, own, p, x_token), channel(p), T::SIZE), sum);
  }
  y[(i64)t * dim + d] = sum / total;
}

struct Compressed {
  int heads, dim, words, window, size;
  i64 q_token, q_head, k_token, c_token;
};
// y[t, h] = softmax(scale * q[t, h] * row) * row over the last `window` rows of k, rows of c in the cells of the last
// positions of complete units whose bits are set (no bits: all), and a sink; 32 rows at a time. Grid (heads, tokens)
template <class T>
GS_DEV void gs_compressed_attn(const float* q, const u8* k, const int* where, const int* table, const u8* c,
                               const int* c_where, const int* c_table, const float* sinks, const u32* chosen,
                               float* y, const Compressed& s, float scale) {
  GS_SHARED(float, scores, 32);
  gs_pdl_launch();
  gs_pdl_wait();
  const int h = blockIdx.x, t = blockIdx.y;
  const Sight sight = gs_sight(Mask{where, s.window, 0}, t), far = gs_sight(Mask{c_where, 0, 0}, t);
  const int *near_table = table + sight.entry, *far_table = c_table + far.entry;
  const u32* bits = chosen ? chosen + (i64)t * s.words : chosen;
  const float* query = q + t * s.q_token + h * s.q_head;
  const int near = sight.last + 1 - sight.first, both = near + (sight.last + 1) / s.size;
  const auto row = [&](int i) {  // null where it is not chosen
    if (i < near) return gs_row_at(k, near_table, sight.first + i, s.k_token);
    const int p = (i - near) * s.size + s.size - 1;
    const bool is_chosen = i < both && (!bits || bits[gs_block_of(p)] >> p % GS_CELL_BLOCK & 1);
    return is_chosen ? gs_row_at(c, far_table, p, s.c_token) : (const u8*)nullptr;
  };
  Weighed sums = {{}, sinks[h], 1.0f};
  for (int base = 0; base < both; base += 32) {
    const auto here = [&](int i) { return row(base + i); };
    gs_weigh_32<T>(sums, scores, query, s.dim, s.dim, scale, here, here);
  }
  gs_put_weighed(sums, y + ((i64)t * s.heads + h) * s.dim, s.dim);
}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(256, 1)
    choose_TYPE(const float* q, const u8* k, const int* where, const int* table, const float* w, int* y, int* scores,
                int rows, int dim, int heads, int groups, int words, int top_k, int size, int pooled, int tail,
                int local, int most, i64 q_token, i64 q_head, i64 k_token) {
  gs_choose<TYPE>(q, k, where, table, w, y, scores, rows,
                  Choice{dim, heads, groups, words, top_k, size, pooled, tail, local}, most, q_token, q_head, k_token);
}
extern "C" __global__ void __launch_bounds__(128)
    sparse_attn_TYPE(const float* q, const u8* k, const u8* v, const int* where, const int* table, const u32* chosen,
                     float* y, int heads, int group, int dk, int dv, int words, int groups, i64 q_token, i64 q_head,
                     i64 k_token, i64 k_head, i64 v_token, i64 v_head, float scale) {
  const Sparse s = {heads, group, dk, dv, words, groups, q_token, q_head, k_token, k_head, v_token, v_head};
  gs_sparse_attn<TYPE>(q, k, v, where, table, chosen, y, s, scale);
}
extern "C" __global__ void __launch_bounds__(128)
    compressed_attn_TYPE(const float* q, const u8* k, const int* where, const int* table, const u8* c,
                         const int* c_where, const int* c_table, const float* sinks, const u32* chosen, float* y,
                         int heads, int dim, int words, int window, int size, i64 q_token, i64 q_head, i64 k_token,
                         i64 c_token, float scale) {
  const Compressed s = {heads, dim, words, window, size, q_token, q_head, k_token, c_token};
  gs_compressed_attn<TYPE>(q, k, where, table, c, c_where, c_table, sinks, chosen, y, s, scale);
}
extern "C" __global__ void __launch_bounds__(128)
    pool_TYPE(const u8* x, const int* where, const int* table, const u8* gates, const float* bias, float* y, int dim,
              int size, int overlap, i64 x_token, i64 gates_token) {
  gs_pool<TYPE>(x, where, table, gates, bias, y, dim, size, overlap, x_token, gates_token);
}
