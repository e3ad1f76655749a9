// A libcublasLt.so.13 without a GPU, for the stand-in driver: the calls that this project makes, with what the real
// library demands of them. A product is work of the stream, late as all of it, and fills its room for partial sums with
// NaN. An algorithm is good for the sizes, types, strides and alignments that it was asked for, and for no others.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int
typedef uint64_t u64;
typedef uint32_t u32;
enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14, COMPUTE_32F = 68, TRANSA = 3, TRANSPOSED = 1, MOST_ROOM = 1, ALIGN_A = 5, ALIGN_D = 8 };
extern "C" int cuLaunchHostFunc(void* stream, void (*run)(void*), void* data);

struct Handle { u32 magic; };
struct Product { int transposed_a; };
struct Layout { int type; u64 rows, columns; int64_t stride; };
struct Preference { size_t room; u32 alignment[4]; };
struct Algorithm { u64 key[8]; };
struct Choice {
  Algorithm algorithm;
  size_t room;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Choice) == 96, "as in cublasLt.h");
static const u32 MAGIC = 0xb1a5;
static int live = 0, products = 0;  // handles, descriptors, layouts, preferences; products made

static Algorithm algorithm_for(const Layout& a, const Layout& b, const Layout& c, const u32* alignment) {
  Algorithm x = {{a.columns, a.rows, b.columns, (u64)a.type, (u64)c.stride, (u64)a.stride << 32 | (u64)b.stride, 0, MAGIC}};
  for (int i = 0; i < 4; i++) x.key[6] |= (u64)alignment[i] << 16 * i;
  return x;
}
static bool fits(const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool types = (a.type == R_16F || a.type == R_16BF) && b.type == a.type && c.type == R_32F && d.type == R_32F;
  const bool sizes = a.rows == b.rows && a.columns == c.rows && b.columns == c.columns && d.rows == c.rows && d.columns == c.columns;
  const bool strides = a.stride >= (int64_t)a.rows && b.stride >= (int64_t)b.rows && c.stride >= (int64_t)c.rows && d.stride == c.stride;
  return types && sizes && strides && a.stride % 8 == 0 && b.stride % 8 == 0;  // columns start at 16 bytes
}
static float value(int type, uint16_t v) {
  if (type == R_16BF) {
    const u32 bits = (u32)v << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
  }
  _Float16 h;
  memcpy(&h, &v, 2);
  return (float)h;
}

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130100; }
extern "C" __attribute__((visibility("default"))) const char* cublasLtGetStatusString(int s) {
  return s == INVALID_VALUE ? "an invalid value" : s == NOT_SUPPORTED ? "not supported" : "failed";
}
extern "C" __attribute__((visibility("default"))) void gs_cublas_counts(int* n) { n[0] = products, n[1] = live; }
API cublasLtCreate(Handle** h) { return live++, *h = new Handle{MAGIC}, OK; }
API cublasLtDestroy(Handle* h) { return live--, h->magic = 0, delete h, OK; }
API cublasLtMatmulDescCreate(Product** p, int compute, int scale) {
  if (compute != COMPUTE_32F || scale != R_32F) return NOT_SUPPORTED;
  return live++, *p = new Product{0}, OK;
}
API cublasLtMatmulDescDestroy(Product* p) { return live--, delete p, OK; }
API cublasLtMatmulDescSetAttribute(Product* p, int which, const void* v, size_t n) {
  if (which != TRANSA || n != 4) return INVALID_VALUE;
  return p->transposed_a = *(const int*)v, OK;
}
API cublasLtMatrixLayoutCreate(Layout** l, int type, u64 rows, u64 columns, int64_t stride) {
  return live++, *l = new Layout{type, rows, columns, stride}, OK;
}
API cublasLtMatrixLayoutDestroy(Layout* l) { return live--, delete l, OK; }
API cublasLtMatmulPreferenceCreate(Preference** p) { return live++, *p = new Preference{0, {256, 256, 256, 256}}, OK; }
API cublasLtMatmulPreferenceDestroy(Preference* p) { return live--, delete p, OK; }
API cublasLtMatmulPreferenceSetAttribute(Preference* p, int which, const void* v, size_t n) {
  if (which == MOST_ROOM && n == 8) return p->room = *(const size_t*)v, OK;
  if (which < ALIGN_A || which > ALIGN_D || n != 4) return INVALID_VALUE;
  return p->alignment[which - ALIGN_A] = *(const u32*)v, OK;
}
API cublasLtMatmulAlgoGetHeuristic(Handle* h, Product* p, Layout* a, Layout* b, Layout* c, Layout* d, Preference* wanted,
                                   int most, Choice* found, int* n) {
  *n = 0;
  if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
  if (most < 1) return INVALID_VALUE;
  if (p->transposed_a != TRANSPOSED || !fits(*a, *b, *c, *d) || wanted->alignment[0] < 16 || wanted->alignment[1] < 16)
    return NOT_SUPPORTED;
  *found = Choice{algorithm_for(*a, *b, *c, wanted->alignment), wanted->room < 4096 ? wanted->room : 4096, OK, 1.0f, {}};
  return *n = 1, OK;
}

struct Work {
  Layout a, b, c;
  const uint16_t *w, *x;
  float* y;
  void* room;
  size_t room_bytes;
};
static void run(void* data) {  // kept: a graph runs it again
  const Work& t = *(const Work*)data;
  if (t.room_bytes) memset(t.room, 0xff, t.room_bytes);
  std::vector<float> row(t.a.rows);
  for (u64 m = 0; m < t.b.columns; m++) {
    for (u64 i = 0; i < t.a.rows; i++) row[i] = value(t.b.type, t.x[m * t.b.stride + i]);
    for (u64 n = 0; n < t.a.columns; n++) {
      float sum = 0;
      for (u64 i = 0; i < t.a.rows; i++) sum += row[i] * value(t.a.type, t.w[n * t.a.stride + i]);
      t.y[m * t.c.stride + n] = sum;
    }
  }
}
API cublasLtMatmul(Handle* h, Product* p, const float* one, const void* w, Layout* a, const void* x, Layout* b, const float* zero,
                   const void* c, Layout* lc, void* y, Layout* d, const Algorithm* algorithm, void* room, size_t room_bytes,
                   void* stream) {
  if (!h || h->magic != MAGIC) return NOT_INITIALIZED;
  if (!stream || *one != 1 || *zero != 0 || c != y || p->transposed_a != TRANSPOSED || !fits(*a, *b, *lc, *d)) return INVALID_VALUE;
  u32 alignment[4];
  const void* at[4] = {w, x, c, y};
  for (int i = 0; i < 4; i++) {
    alignment[i] = algorithm->key[6] >> 16 * i & 0xffff;
    if ((u64)at[i] % alignment[i]) return INVALID_VALUE;
  }
  const Algorithm fit = algorithm_for(*a, *b, *lc, alignment);
  if (memcmp(&fit, algorithm, sizeof(fit)) || room_bytes < 4096 || !room) return INVALID_VALUE;
  products++;
  return cuLaunchHostFunc(stream, run, new Work{*a, *b, *lc, (const uint16_t*)w, (const uint16_t*)x, (float*)y, room, room_bytes});
}
