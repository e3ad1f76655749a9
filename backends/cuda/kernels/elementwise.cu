// y = f(a, b) over [tokens, heads, k]; tokens and heads may have any stride, and a stride of 0 repeats an operand (a
// bias, a norm's weight). b may also repeat within a row (b_step 0). Grid (columns, heads, tokens)
#include "activation.cuh"

struct Cell {
  int i;
  i64 head, token;
};
GS_DEV Cell gs_cell() {
  gs_pdl_launch();
  gs_pdl_wait();
  return {(int)(blockIdx.x * blockDim.x + threadIdx.x), (i64)blockIdx.y, (i64)blockIdx.z};
}
struct Operands {  // two values, and where the result goes
  float a, b;
  float* y;
};
GS_DEV Operands gs_operands(const Cell& c, const float* a, const float* b, float* y, i64 a_token, i64 a_head,
                            i64 b_token, i64 b_head, int b_step, i64 y_token, i64 y_head) {
  return {a[c.token * a_token + c.head * a_head + c.i], b[c.token * b_token + c.head * b_head + (i64)c.i * b_step],
          y + c.token * y_token + c.head * y_head + c.i};
}
// The body of a kernel of two operands, up to the result. The kernels declare their parameters in full, because
// signature.py reads them from this text.
#define GS_OPERANDS(v)        \
  const Cell c = gs_cell();   \
  if (c.i >= k) return;       \
  const Operands v = gs_operands(c, a, b, y, a_token, a_head, b_token, b_head, b_step, y_token, y_head)

extern "C" __global__ void __launch_bounds__(256)
    add(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
        int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = v.a + v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
        int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = v.a * v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    divide(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
           int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = v.a / v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    silu_mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
             int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = gs_silu(v.a) * v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    gelu_mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
             int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = gs_gelu(v.a) * v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    relu2_mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
              int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = gs_relu2(v.a) * v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    relu_mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
             int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = fmaxf(v.a, 0.0f) * v.b;
}
extern "C" __global__ void __launch_bounds__(256)
    sigmoid_mul(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
                int b_step, i64 y_token, i64 y_head) {
  GS_OPERANDS(v);
  *v.y = gs_sigmoid(v.a) * v.b;
}
// g * sigmoid(alpha g) * (u + 1) with g = min(a, limit), u = clamp(b, -limit, limit)
extern "C" __global__ void __launch_bounds__(256)
    swiglu_oai(const float* a, const float* b, float* y, int k, i64 a_token, i64 a_head, i64 b_token, i64 b_head,
               int b_step, i64 y_token, i64 y_head, float alpha, float limit) {
  GS_OPERANDS(v);
  const float g = fminf(v.a, limit), u = fminf(fmaxf(v.b, -limit), limit);
  *v.y = g / (1.0f + expf(-alpha * g)) * (u + 1.0f);
}

enum { GS_SCALE = 5, GS_SQR, GS_CLAMP, GS_SOFTCAP, GS_SOFTPLUS, GS_SQRT_SOFTPLUS };  // after the activations
// y = f(x) with up to two constants. Grid (columns, heads, tokens)
extern "C" __global__ void __launch_bounds__(256)
    unary(const float* x, float* y, int k, i64 x_token, i64 x_head, i64 y_token, i64 y_head, int how, float p,
          float q) {
  const Cell c = gs_cell();
  if (c.i >= k) return;
  const float v = x[c.token * x_token + c.head * x_head + c.i];
  float* to = y + c.token * y_token + c.head * y_head + c.i;
  if (how == GS_SCALE) *to = v * p;
  else if (how == GS_SQR) *to = v * v;
  else if (how == GS_CLAMP) *to = fminf(fmaxf(v, p), q);
  else if (how == GS_SOFTCAP) *to = p * tanhf(v / p);
  else if (how == GS_SOFTPLUS || how == GS_SQRT_SOFTPLUS) {
    const float y = v > 20.0f ? v : log1pf(expf(v));
    *to = how == GS_SOFTPLUS ? y : sqrtf(y);
  }
  else *to = gs_activate(v, how);
}
// y = p x^2 + beta x above 0, n (e^min(x, eps) - 1 - x) + beta x below. Grid (columns, heads, tokens)
extern "C" __global__ void __launch_bounds__(256)
    xielu(const float* x, float* y, int k, i64 x_token, i64 x_head, i64 y_token, i64 y_head, float n, float p,
          float beta, float eps) {
  const Cell c = gs_cell();
  if (c.i >= k) return;
  const float v = x[c.token * x_token + c.head * x_head + c.i];
  const float bent = v > 0.0f ? p * v * v : n * (expm1f(fminf(v, eps)) - v);
  y[c.token * y_token + c.head * y_head + c.i] = fmaf(beta, v, bent);
}
// y[t] = sum_e weights[t, e] * x[t, e]; null weights: 1. Grid (columns, 1, tokens)
extern "C" __global__ void __launch_bounds__(256)
    weighted_sum(const float* x, const float* weights, float* y, int k, int used) {
  const Cell c = gs_cell();
  if (c.i >= k) return;
  float sum = 0.0f;
  for (int e = 0; e < used; e++) {
    const float v = x[(c.token * used + e) * k + c.i];
    sum += weights ? gs_product(weights[c.token * used + e], v) : v;  // the bits of a product and a sum
  }
  y[c.token * k + c.i] = sum;
}
// y[t, e] = x[t, e] + b[ids[t, e]]; nothing for ids outside the range. Grid (columns, used, tokens)
extern "C" __global__ void __launch_bounds__(256)
    add_id(const float* x, const float* b, const int* ids, float* y, int k, int n_expert, i64 b_row) {
  const Cell c = gs_cell();
  if (c.i >= k) return;
  const i64 slot = c.token * gridDim.y + c.head;
  const int e = ids[slot];
  y[slot * k + c.i] = x[slot * k + c.i] + (e >= 0 && e < n_expert ? b[e * b_row + c.i] : 0.0f);
}
