// Routed experts: which ones (top-k), and their mat-vecs without a host in between: ids live in device memory. An id
// outside [0, n_expert) gives a zero row. Experts lie one after the other, each in the layout of a whole tensor.
#include "activation.cuh"
#include "matvec.cuh"

enum { GS_BY_SOFTMAX, GS_BY_SIGMOID, GS_BY_SOFTMAX_OF_CHOSEN };

// One warp a token, at most 512 experts. Ranks by probability + bias (bias may be null); equal ranks: the lower id.
// weights are the chosen ones' probabilities, divided by their sum with `normalise`, times `scale`. Grid (tokens)
extern "C" __global__ void __launch_bounds__(32)
    route(const float* logits, const float* bias, int* ids, float* weights, int n_expert, int used, int mode,
          int normalise, float scale) {
  gs_pdl_launch();
  gs_pdl_wait();
  const int lane = threadIdx.x, token = blockIdx.x;
  const float* row = logits + (i64)token * n_expert;
  const float none = -3.0e38f;
  float p[16], rank[16], top = none, all = 0.0f;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    p[i] = i * 32 + lane < n_expert ? row[i * 32 + lane] : none;
    top = fmaxf(top, p[i]);
  }
  top = gs_warp_max(top);
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const bool real = i * 32 + lane < n_expert;
    if (mode == GS_BY_SIGMOID) p[i] = real ? 1.0f / (1.0f + expf(-p[i])) : 0.0f;
    else if (mode == GS_BY_SOFTMAX) all += p[i] = real ? expf(p[i] - top) : 0.0f;
  }
  if (mode == GS_BY_SOFTMAX) all = gs_warp_sum(all);
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int e = i * 32 + lane;
    if (mode == GS_BY_SOFTMAX) p[i] /= all;
    rank[i] = e < n_expert ? p[i] + (bias ? bias[e] : 0.0f) : none;
  }
  float sum = 0.0f, mine = 0.0f;  // lane j keeps slot j and j + 32 is not needed: used <= 32
  for (int j = 0; j < used; j++) {
    float best = none, prob = 0.0f;
    int id = 1 << 20;
#pragma unroll
    for (int i = 0; i < 16; i++)
      if (rank[i] > best) best = rank[i], prob = p[i], id = i * 32 + lane;
#pragma unroll
    for (int m = 16; m > 0; m /= 2) {
      const float other = gs_shfl_xor(best, m), its = gs_shfl_xor(prob, m);
      const int from = gs_shfl_xor(id, m);
      if (other > best || (other == best && from < id)) best = other, prob = its, id = from;
    }
#pragma unroll
    for (int i = 0; i < 16; i++)
      if (i * 32 + lane == id) rank[i] = none;
    if (mode == GS_BY_SOFTMAX_OF_CHOSEN) prob = expf(prob - top);
    sum += prob;
    if (lane == j) mine = prob, ids[token * used + j] = id;
  }
  if (normalise || mode == GS_BY_SOFTMAX_OF_CHOSEN) mine /= sum;
  if (lane < used) weights[token * used + lane] = mine * scale;
}

// Slots sorted by expert, in order within one: order[starts[e]] .. order[starts[e + 1]] - 1; ids outside the range go
// to the group n_expert. One block with a thread for each of the n_expert + 1 groups.
extern "C" __global__ void __launch_bounds__(1024) group(const int* ids, int* order, int* starts, int slots, int n_expert) {
  gs_pdl_launch();
  gs_pdl_wait();
  GS_SHARED(int, part, 1024);
  GS_SHARED(int, counts, 1024);
  const int e = threadIdx.x;
  int at = 0;
  for (int pass = 0; pass < 2; pass++) {  // count, then place
    for (int first = 0; first < slots; first += blockDim.x) {
      gs_sync();
      if (first + e < slots) {
        const int id = ids[first + e];
        part[e] = id >= 0 && id < n_expert ? id : n_expert;
      }
      gs_sync();
      for (int i = 0; i < gs_min(blockDim.x, slots - first); i++)
        if (part[i] == e) {
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
    gs_accumulate<T, 1, 2, 2>(acc, row, q8 + slot.x * k, ds + slot.x * units, 1, units, at.part * 32 + at.lane, 32 * split, units);
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
    gs_accumulate<T, 1, 2, 2>(acc, row, q8 + slot.x * k, ds + slot.x * units, 1, units, at.part * 32 + at.lane, 32 * split, units);
  }
  gs_reduce<1, 2>(acc, split);
  if (!at.part && !at.lane && at.row < rows) y[slot.y * rows + at.row] = gs_activate(acc[0][0], how) * acc[0][1];
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
