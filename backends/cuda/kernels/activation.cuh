// The activations of gated feed-forward layers.
#include "common.cuh"

enum { GS_SILU, GS_GELU, GS_RELU2, GS_RELU, GS_SIGMOID };
GS_DEV float gs_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
GS_DEV float gs_silu(float x) { return x / (1.0f + expf(-x)); }
GS_DEV float gs_gelu(float x) {  // the tanh form
  return 0.5f * x * (1.0f + tanhf(0.79788456f * x * fmaf(0.044715f * x, x, 1.0f)));
}
GS_DEV float gs_relu2(float x) { return x > 0.0f ? x * x : 0.0f; }
GS_DEV float gs_activate(float x, int how) {
  return how == GS_SILU    ? gs_silu(x)
         : how == GS_GELU  ? gs_gelu(x)
         : how == GS_RELU2 ? gs_relu2(x)
         : how == GS_RELU  ? fmaxf(x, 0.0f)
                           : gs_sigmoid(x);
}
