// Routed experts: their choice (top-k) and their mat-vecs, without the host in between: ids stay in device memory. An
// id outside [0, n_expert) gives a row of zeros. Experts lie one after the other, each in the layout of a whole tensor.
#include "activation.cuh"
#include "matvec.cuh"
#include "topk.cuh"

enum { GS_SOFTMAX, GS_SIGMOIDS, GS_SOFTMAX_WEIGHT, GS_SIGMOID_WEIGHT };  // of all experts, or of the chosen

// One warp a token, at most 512 experts, 32 of them chosen, in at most 32 groups (0: none), of which the `kept` best
// count. Ranks by probability + bias (null: none). Weights are the chosen ones' probabilities; with `normalise` over
// their sum, which is at least `least`; times `scale`. The bits are those of soft_max, top_k, choose, sum_rows and so
// on, a launch each: sums in the same order. Grid (tokens)
extern "C" __global__ void __launch_bounds__(32)
    route(const float* logits, const float* bias, int* ids, float* weights, int n_expert, int used, int gating,
          int groups, int kept, int normalise, float least, float scale) {
  GS_SHARED(float, ranks, GS_TOP_MOST);
  gs_pdl_launch();
  gs_pdl_wait();
  const int lane = threadIdx.x, token = blockIdx.x;
  const float* row = logits + (i64)token * n_expert;
  float p[GS_TOP_MOST / 32], rank[GS_TOP_MOST / 32], top = GS_NONE, all = 0.0f;
#pragma unroll
  for (int i = 0; i < GS_TOP_MOST / 32; i++) {
    p[i] = i * 32 + lane < n_expert ? row[i * 32 + lane] : GS_NONE;
    top = fmaxf(top, p[i]);
  }
  if (gating == GS_SOFTMAX) {
    top = gs_warp_max(top);
#pragma unroll
    for (int i = 0; i < GS_TOP_MOST / 32; i++) all += p[i] = i * 32 + lane < n_expert ? expf(p[i] - top) : 0.0f;
    all = gs_warp_sum(all);
  }
#pragma unroll
  for (int i = 0; i < GS_TOP_MOST / 32; i++) {
    const int e = i * 32 + lane;
    if (gating == GS_SOFTMAX) p[i] /= all;
    else if (gating == GS_SIGMOIDS) p[i] = gs_sigmoid(p[i]);
    rank[i] = e < n_expert ? bias ? p[i] + bias[e] : p[i] : GS_NONE;
    if (groups && e < n_expert) ranks[e] = rank[i];
  }
  if (groups) {
    gs_sync();
    const int size = n_expert / groups;
    const u32 open = gs_best_groups(ranks, groups, size, kept);
#pragma unroll
    for (int i = 0; i < GS_TOP_MOST / 32; i++)
      if (i * 32 + lane < n_expert && !(open >> (i * 32 + lane) / size & 1)) rank[i] = GS_NONE;
  }
  float mine = 0.0f;  // lane j has the weight of slot j
  for (int j = 0; j < used; j++) {
    const int id = gs_take_best(rank);
    float prob = 0.0f;
#pragma unroll
    for (int i = 0; i < GS_TOP_MOST / 32; i++)
      if (i * 32 + lane == id) prob = p[i];
    prob = gs_shfl(prob, id % 32);
    if (lane == j) mine = prob, ids[token * used + j] = id;
  }
  if (gating == GS_SOFTMAX_WEIGHT) {
    const float best = gs_warp_max(lane < used ? mine : GS_NONE), e = lane < used ? expf(mine - best) : 0.0f;
    mine = e / gs_warp_sum(e);
  } else if (gating == GS_SIGMOID_WEIGHT) {
    mine = lane < used ? gs_sigmoid(mine) : 0.0f;
  }
  if (normalise) mine /= fmaxf(gs_warp_sum(mine), least);
  if (lane < used) weights[token * used + lane] = mine * scale;
}

// Slots sorted by expert, in order within one: order[starts[e]] .. order[starts[e + 1]] - 1; ids outside the range go
// to the group n_expert. One block with a thread for each of the n_expert + 1 groups.
extern "C" __global__ void __launch_bounds__(1024)
    group(const int* ids, int* order, int* starts, int slots, int n_expert) {
  gs_pdl_launch();
  gs_pdl_wait();
  GS_SHARED(int, experts, 1024);
  GS_SHARED(int, counts, 1024);
  const int e = threadIdx.x;
  int at = 0;
  for (int pass = 0; pass < 2; pass++) {  // count, then place
    for (int first = 0; first < slots; first += blockDim.x) {
      gs_sync();
      if (first + e < slots) {
        const int id = ids[first + e];
        experts[e] = id >= 0 && id < n_expert ? id : n_expert;
      }
      gs_sync();
      for (int i = 0; i < gs_min(blockDim.x, slots - first); i++)
        if (experts[i] == e) {
          if (pass) order[at] = first + i;
          at++;
        }
    }
    if (pass) break;
    counts[e] = at;
    gs_sync();
    at = 0;
    for (int i = 0; i < e; i++) at += counts[i];
    if (e <= n_expert) starts[e] = at;
    if (e == n_expert) starts[e + 1] = slots;
  }
}

struct Slot {  // grid (row groups, used, tokens)
  int expert;
  i64 x, y;
};
GS_DEV Slot gs_slot(const int* ids, int n_expert, int x_per_slot) {
  const i64 slot = (i64)blockIdx.z * gridDim.y + blockIdx.y;
  const int e = ids[slot];
  return {e >= 0 && e < n_expert ? e : -1, x_per_slot ? slot : (i64)blockIdx.z, slot};
}

template <class T>
GS_DEV void gs_matvec_id(const u8* w, const int* ids, const i8* q8, const float2* ds, float* y, int n_expert, int rows,
                         int k, int x_per_slot, int split) {
  gs_pdl_launch();
  gs_pdl_wait();
  const Place at = gs_place<2>(split);
  const Slot slot = gs_slot(ids, n_expert, x_per_slot);
  const int units = k / 32;
  float acc[1][2] = {};
  if (slot.expert >= 0) {
    const u8* base = w + slot.expert * gs_tensor_bytes<T>(rows, units);
    const Row row[2] = {gs_row<T>(base, rows, units, gs_min(at.row, rows - 1)),
                        gs_row<T>(base, rows, units, gs_min(at.row + 1, rows - 1))};
    gs_accumulate<T, 1, 2, 2>(acc, row, q8 + slot.x * k, ds + slot.x * units, 1, units, at.slice * 32 + at.lane,
                              32 * split, units);
  }
  gs_reduce<1, 2>(acc, split);
  gs_store<1, 2>(acc, at, y + slot.y * rows, 1, rows, 0);
}
// y = f(gate x) * (up x), both mat-vecs in one pass over x; ids null: one expert, the dense case
template <class T>
GS_DEV void gs_up_gate(const u8* up, const u8* gate, const int* ids, const i8* q8, const float2* ds, float* y,
                       int n_expert, int rows, int k, int how, int split) {
  gs_pdl_launch();
  gs_pdl_wait();
  const Place at = gs_place<1>(split);
  const Slot slot = ids ? gs_slot(ids, n_expert, 0) : Slot{0, (i64)blockIdx.z, (i64)blockIdx.z};
  const int units = k / 32;
  float acc[1][2] = {};
  if (slot.expert >= 0) {
    const i64 skip = slot.expert * gs_tensor_bytes<T>(rows, units);
    const int r = gs_min(at.row, rows - 1);
    const Row row[2] = {gs_row<T>(gate + skip, rows, units, r), gs_row<T>(up + skip, rows, units, r)};
    gs_accumulate<T, 1, 2, 2>(acc, row, q8 + slot.x * k, ds + slot.x * units, 1, units, at.slice * 32 + at.lane,
                              32 * split, units);
  }
  gs_reduce<1, 2>(acc, split);
  if (!at.slice && !at.lane && at.row < rows) y[slot.y * rows + at.row] = gs_activate(acc[0][0], how) * acc[0][1];
}

//@ for TYPE
extern "C" __global__ void __launch_bounds__(128, 4)
    matvec_id_TYPE(const u8* w, const int* ids, const i8* q8, const float2* ds, float* y, int n_expert, int rows, int k,
                   int x_per_slot, int split) {
  gs_matvec_id<TYPE>(w, ids, q8, ds, y, n_expert, rows, k, x_per_slot, split);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    up_gate_TYPE(const u8* up, const u8* gate, const int* ids, const i8* q8, const float2* ds, float* y, int n_expert,
                 int rows, int k, int how, int split) {
  gs_up_gate<TYPE>(up, gate, ids, q8, ds, y, n_expert, rows, k, how, split);
}
