// CUDA C++ kernels on the CPU: g++ compiles the kernel files behind this header, one fiber per CUDA thread.
//
// A block's fibers run one at a time until they wait: at a barrier (for every thread that has not exited) or in a warp
// operation (for all 32 lanes; the last to arrive computes the outputs of all). Nothing runnable is a deadlock and is
// reported with what each thread waits for. Shared memory starts as 0xff (NaN). A seed decides in which order blocks
// and fibers run, and whether asynchronous copies happen at once or no earlier than the wait that forces them.
//
// Under the address sanitizer shared arrays have borders. Under the thread sanitizer a fiber is a thread that nothing but
// barriers, and the start and end of a block, orders with others: shuffles do not, nor does who ran first here.
#pragma once
#define GS_EMU 1
#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sys/mman.h>
#include <utility>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define GS_BORDER 64
#else
#define GS_BORDER 0
#define ASAN_POISON_MEMORY_REGION(at, n) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)0)
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#endif

typedef signed char i8;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef long long i64;
typedef unsigned long long u64;
struct uint3 { u32 x, y, z; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

namespace gs_emu {
enum State { READY, AT_BARRIER, IN_WARP, DONE };
enum { STACK = 256 << 10, LANES = 32, MAX_THREADS = 1024, POSTED = 64 };
typedef void (*Thunk)(void**);
struct Copy { void* to; const void* from; int bytes; bool valid; };
struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  State state = DONE;
  int line = 0;
  uint3 tid{};
#if defined(__SANITIZE_THREAD__)
  void* thread = nullptr;
#endif
  std::deque<std::vector<Copy>> groups;  // committed asynchronous copies, oldest first
  std::vector<Copy> open;                // not yet committed
#if !defined(__x86_64__)
  ucontext_t context;
#endif
};
struct Warp {  // the warp operation under way
  int arrived = 0;
  const char* what = nullptr;
  alignas(16) u8 in[LANES][POSTED], out[LANES][POSTED];
};
struct Slot {  // one static shared array; it gets its place when the block first reaches it
  u64 block = 0;
  u8* at = nullptr;
  void* get(size_t bytes);
};
static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / LANES];
static Fiber* me;
static void* scheduler_sp;
static uint3 grid, block, block_id;
static int threads, alive, at_barrier, barrier_line;
static u64 block_serial = 0;
alignas(128) static u8 shared[256 << 10];
static size_t shared_used;
static Thunk kernel;
static void** kernel_args;
static char* message;
static bool failed, eager;
static sigjmp_buf fault;
#if !defined(__x86_64__)
static ucontext_t scheduler_context;
#endif

// ---- what sanitizers are told
#if defined(__SANITIZE_THREAD__)
#define GS_QUIET __attribute__((no_sanitize("thread")))
struct Quiet {  // what the shim itself reads and writes is no access of the kernel's
  Quiet() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  ~Quiet() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }
};
static char started, ended, at_phase[2];  // what orders: the start and end of a block, barriers by turns
static int phase;
static void* scheduler_thread;
static void before(void* what) { __tsan_release(what); }
static void after(void* what) { __tsan_acquire(what); }
#else
#define GS_QUIET
struct Quiet {
  Quiet() {}
};
static char started, ended, at_phase[2];
static int phase;
static void before(void*) {}
static void after(void*) {}
#endif

// ---- fibers
#if defined(__x86_64__)
extern "C" void gs_emu_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden gs_emu_switch
.type gs_emu_switch, @function
gs_emu_switch:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
)");
GS_QUIET static void swap_out() { gs_emu_switch(&me->sp, scheduler_sp); }
GS_QUIET static void swap_in(Fiber& f) { gs_emu_switch(&scheduler_sp, f.sp); }
#else
static void swap_out() { swapcontext(&me->context, &scheduler_context); }
static void swap_in(Fiber& f) { swapcontext(&scheduler_context, &f.context); }
#endif
#if defined(__SANITIZE_ADDRESS__)
static const void* scheduler_stack;
static size_t scheduler_size;
static void to_scheduler() {
  void* fake;
  __sanitizer_start_switch_fiber(me->state == DONE ? nullptr : &fake, scheduler_stack, scheduler_size);
  swap_out();
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_size);
}
static void to_fiber(Fiber& f) {
  me = &f;
  void* fake;
  __sanitizer_start_switch_fiber(&fake, f.stack, STACK);
  swap_in(f);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
static void on_fiber() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size); }
#elif defined(__SANITIZE_THREAD__)
GS_QUIET static void to_scheduler() {
  __tsan_switch_to_fiber(scheduler_thread, __tsan_switch_to_fiber_no_sync);
  swap_out();
}
GS_QUIET static void to_fiber(Fiber& f) {
  me = &f;
  scheduler_thread = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(f.thread, __tsan_switch_to_fiber_no_sync);
  swap_in(f);
}
static void on_fiber() {}
#else
static void to_scheduler() { swap_out(); }
static void to_fiber(Fiber& f) { me = &f; swap_in(f); }
static void on_fiber() {}
#endif

static void where(char* to, size_t n, const char* text) {
  snprintf(to, n, "%s in block (%u,%u,%u)", text, block_id.x, block_id.y, block_id.z);
}
[[noreturn]] static void fail(const char* text) {
  char at[400];
  where(at, sizeof at, text);
  snprintf(message, 512, "%s, thread %u", at, me->tid.x);
  failed = true;
  to_scheduler();
  abort();
}
GS_QUIET static void release_barrier() {
  phase ^= 1;
  for (int i = 0; i < threads; i++)
    if (fibers[i].state == AT_BARRIER) fibers[i].state = READY;
  at_barrier = 0;
}
GS_QUIET static void body() {
  on_fiber();
  after(&started);
  kernel(kernel_args);
  before(&ended);
  me->state = DONE;
  if (--alive == at_barrier && at_barrier) release_barrier();
  to_scheduler();
  abort();
}
GS_QUIET static void prepare(Fiber& f, int i) {
  const Quiet quiet;
  if (!f.stack) {
    f.stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(f.stack, 4096, PROT_NONE);
  }
#if defined(__SANITIZE_THREAD__)
  if (!f.thread) f.thread = __tsan_create_fiber(0);
#endif
  ASAN_UNPOISON_MEMORY_REGION(f.stack + 4096, STACK - 4096);
  f.state = READY;
  f.tid = {(u32)i, 0, 0};
  f.groups.clear();
  f.open.clear();
#if defined(__x86_64__)
  void** top = (void**)(f.stack + STACK) - 1;  // after `ret` into body() the stack is as after a call: 16n + 8
  *--top = (void*)body;
  f.sp = top - 6;
#else
  getcontext(&f.context);
  f.context.uc_stack = {f.stack, 0, STACK};
  f.context.uc_link = nullptr;
  makecontext(&f.context, body, 0);
#endif
}

// ---- one block, one launch
static void deadlock() {
  int barrier = 0, warp = 0, barrier_at = 0;
  const char* op = "";
  for (int i = 0; i < threads; i++) {
    if (fibers[i].state == AT_BARRIER) barrier++, barrier_at = fibers[i].line;
    if (fibers[i].state == IN_WARP) warp++, op = warps[i / LANES].what;
  }
  char at[200];
  where(at, sizeof at, "deadlock");
  snprintf(message, 512, "%s: %d threads at a barrier (line %d), %d in a warp operation (%s), %d exited", at, barrier,
           barrier_at, warp, op, threads - alive);
  failed = true;
}
// one warp alone, as far as it gets: what a barrier too few lets it overtake shows
GS_QUIET static bool run_warp(int warp) {
  bool ran = false, more = true;
  while (more && !failed) {
    more = false;
    for (int i = warp * LANES; i < (warp + 1) * LANES && !failed; i++)
      if (fibers[i].state == READY) more = ran = true, to_fiber(fibers[i]);
  }
  return ran;
}
GS_QUIET static void clear_shared() {
  const Quiet quiet;
  ASAN_UNPOISON_MEMORY_REGION(shared, sizeof shared);
  memset(shared, 0xff, sizeof shared);
  ASAN_POISON_MEMORY_REGION(shared + shared_used, sizeof shared - shared_used);
}
GS_QUIET static void run_block(u32 seed) {
  after(&ended);
  clear_shared();
  block_serial++;
  at_barrier = 0;
  for (auto& w : warps) w.arrived = 0;
  for (int i = 0; i < threads; i++) prepare(fibers[i], i);
  alive = threads;
  before(&started);
  for (u32 round = 0; alive && !failed; round++) {
    bool ran = false;
    const int start = seed ? (seed * 7919u + round * 104729u) % threads : 0;
    const bool down = seed && ((seed >> (round % 16)) & 1);
    for (int k = 0; k < threads && !failed; k++) {
      const int i = (start + (down ? threads - k : k)) % threads;
      if (seed & 8) ran |= run_warp(i / LANES);
      else if (fibers[i].state == READY) ran = true, to_fiber(fibers[i]);
    }
    if (!ran && !failed) deadlock();
  }
}
static void on_fault(int signal) { siglongjmp(fault, signal); }
GS_QUIET static int launch(Thunk k, void** args, const u32* dims, u32 dynamic, u32 seed, char* text) {
  static char* alternate = (char*)malloc(64 << 10);
  stack_t stack = {alternate, 0, 64 << 10}, old_stack;
  struct sigaction act = {}, old_segv, old_bus, old_ill;
  act.sa_handler = on_fault;
  act.sa_flags = SA_ONSTACK | SA_NODEFER;
  sigaltstack(&stack, &old_stack);
  sigaction(SIGSEGV, &act, &old_segv);
  sigaction(SIGBUS, &act, &old_bus);
  sigaction(SIGILL, &act, &old_ill);  // undefined behaviour, when built to trap on it
  kernel = k, kernel_args = args, message = text, failed = false, eager = seed & 4;
  grid = {dims[0], dims[1], dims[2]}, block = {dims[3], 1, 1}, threads = (int)dims[3];
  shared_used = (dynamic + 127) / 128 * 128;
  const size_t base = shared_used;
  const u64 n = (u64)grid.x * grid.y * grid.z;
  if (threads < LANES || threads > MAX_THREADS || threads % LANES || !n) {
    snprintf(text, 512, "a block of %d threads or an empty grid", threads);
    failed = true;
  } else if (const int signal = sigsetjmp(fault, 1)) {
    char at[200];
    where(at, sizeof at, signal == SIGILL ? "undefined behaviour" : "access to memory that is not the kernel's");
    snprintf(message, 512, "%s, thread %u", at, me->tid.x);
    failed = true;
  } else {
    for (u64 i = 0; i < n && !failed; i++) {
      const u64 b = seed % 2 ? n - 1 - i : i;
      block_id = {(u32)(b % grid.x), (u32)(b / grid.x % grid.y), (u32)(b / grid.x / grid.y)};
      shared_used = base;
      run_block(seed);
    }
  }
  after(&ended);
  sigaction(SIGSEGV, &old_segv, nullptr);
  sigaction(SIGBUS, &old_bus, nullptr);
  sigaction(SIGILL, &old_ill, nullptr);
  sigaltstack(&old_stack, nullptr);
  return failed;
}
GS_QUIET inline void* Slot::get(size_t bytes) {
  if (block != block_serial) {
    block = block_serial;
    at = shared + shared_used + GS_BORDER;
    shared_used += (bytes + 15) / 16 * 16 + GS_BORDER;
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    if (shared_used > sizeof shared) fail("more shared memory than there is");
  }
  return at;
}

// ---- what threads wait for
GS_QUIET static void barrier(int line) {
  if (at_barrier && barrier_line != line) fail("threads of one block meet at different barriers");
  barrier_line = me->line = line;
  char* const meeting = &at_phase[phase];
  before(meeting);
  if (++at_barrier == alive) release_barrier();
  else {
    me->state = AT_BARRIER;
    to_scheduler();
  }
  after(meeting);
}
// every lane posts `in`; when all have, all(in[32], out[32]) computes; each lane gets its own out
template <class In, class Out, class F> GS_QUIET static Out together(const char* what, const In& in, F all) {
  const Quiet quiet;
  static_assert(sizeof(In) <= POSTED && sizeof(Out) <= POSTED);
  const int lane = me->tid.x % LANES, first = (int)me->tid.x - lane;
  Warp& w = warps[first / LANES];
  if (w.arrived && strcmp(w.what, what)) fail("lanes of one warp meet in different warp operations");
  w.what = what;
  memcpy(w.in[lane], &in, sizeof in);
  if (++w.arrived == LANES) {
    In ins[LANES];
    Out outs[LANES] = {};
    for (int i = 0; i < LANES; i++) memcpy(&ins[i], w.in[i], sizeof(In));
    all(ins, outs);
    for (int i = 0; i < LANES; i++) memcpy(w.out[i], &outs[i], sizeof(Out));
    w.arrived = 0;
    for (int i = 0; i < LANES; i++)
      if (fibers[first + i].state == IN_WARP) fibers[first + i].state = READY;
  } else {
    me->state = IN_WARP;
    to_scheduler();
  }
  Out mine;
  memcpy(&mine, w.out[lane], sizeof mine);
  return mine;
}
static void perform(const Copy& c) {
  if (c.valid) memcpy(c.to, c.from, c.bytes);
  else memset(c.to, 0, c.bytes);
}
static void finish_copies(size_t keep) {
  while (me->groups.size() > keep) {
    for (const Copy& c : me->groups.front()) perform(c);
    me->groups.pop_front();
  }
}

// ---- entry: kernel parameters come as an array of addresses, as for cuLaunchKernel
template <auto K> struct Entry;
template <class... A, void (*K)(A...)> struct Entry<K> {
  template <size_t... I> static void unpack(void** a, std::index_sequence<I...>) {
    K(*(std::remove_cv_t<A>*)a[I]...);
  }
  static void call(void** a) { unpack(a, std::index_sequence_for<A...>()); }
  static const u32* sizes() {  // of the parameters, 0 at the end
    static const u32 s[] = {(u32)sizeof(A)..., 0};
    return s;
  }
};
}  // namespace gs_emu

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define threadIdx (gs_emu::me->tid)
#define blockIdx (gs_emu::block_id)
#define blockDim (gs_emu::block)
#define gridDim (gs_emu::grid)
#define GS_DEV [[maybe_unused]] static inline
#define GS_SHARED(T, name, n)       \
  static gs_emu::Slot name##_slot_; \
  T* const name = (T*)name##_slot_.get(sizeof(T) * (n))
#define GS_DYNAMIC(T, name) T* const name = (T*)gs_emu::shared

// ---- the wrappers of common.cuh
GS_DEV void gs_sync(int line = __builtin_LINE()) { gs_emu::barrier(line); }
template <class T> GS_DEV T gs_shfl_xor(T v, int mask) {
  struct In { T v; int mask; };
  return gs_emu::together<In, T>("shfl_xor", {v, mask}, [](In* in, T* out) {
    for (int i = 0; i < 32; i++) out[i] = in[i ^ in[i].mask].v;
  });
}
template <class T> GS_DEV T gs_shfl(T v, int lane) {
  struct In { T v; int lane; };
  return gs_emu::together<In, T>("shfl", {v, lane}, [](In* in, T* out) {
    for (int i = 0; i < 32; i++) out[i] = in[in[i].lane & 31].v;
  });
}
GS_DEV int gs_dp4a(u32 a, u32 b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(i8)(a >> i) * (int)(i8)(b >> i);
  return c;
}
GS_DEV u32 gs_prmt(u32 a, u32 b, u32 selector) {
  const u64 both = (u64)b << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; i++) {
    const u32 s = selector >> (4 * i), byte = (u32)(both >> (8 * (s & 7))) & 0xff;
    r |= (s & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return r;
}
GS_DEV u32 gs_thread() { return threadIdx.x; }
template <class T> GS_DEV T* gs_now(T* p) { return p; }
GS_DEV float gs_product(float a, float b) { return a * b; }
GS_DEV float gs_bits(u32 v) { float f; memcpy(&f, &v, 4); return f; }
GS_DEV u32 gs_bits(float f) { u32 v; memcpy(&v, &f, 4); return v; }
GS_DEV float gs_half(u16 h) {
  const u32 sign = (u32)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
  if (e == 31) return gs_bits(sign | 0x7f800000 | m << 13);
  if (e) return gs_bits(sign | (e + 112) << 23 | m << 13);
  const float f = (float)m * 0x1p-24f;
  return sign ? -f : f;
}
GS_DEV u16 gs_to_half(float f) {
  const u32 v = gs_bits(f), sign = v >> 16 & 0x8000, a = v & 0x7fffffff;
  if (a > 0x7f800000) return 0x7fff;
  if (a >= 0x477ff000) return sign | 0x7c00;                                       // rounds to infinity
  if (a < 0x38800000) return sign | (u16)(int)rintf(gs_bits(a) * 0x1p24f);         // subnormal: exact, then rounded
  return sign | (u16)((a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}
GS_DEV u16 gs_emu_bf16(float f) {
  const u32 v = gs_bits(f);
  if ((v & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (u16)((v + 0x7fff + (v >> 16 & 1)) >> 16);
}
GS_DEV u32 gs_pack_half(float lo, float hi) { return gs_to_half(lo) | (u32)gs_to_half(hi) << 16; }
GS_DEV u32 gs_pack_bf16(float lo, float hi) { return gs_emu_bf16(lo) | (u32)gs_emu_bf16(hi) << 16; }
GS_DEV float gs_exp2(float x) { return exp2f(x) < 0x1p-126f ? 0.0f : exp2f(x); }
template <class T> GS_DEV T gs_emu_load(const void* p) {
  if ((uintptr_t)p % sizeof(T)) gs_emu::fail("misaligned load");
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}
GS_DEV uint4 gs_weights16(const void* p) { return gs_emu_load<uint4>(p); }
GS_DEV uint2 gs_weights8(const void* p) { return gs_emu_load<uint2>(p); }
GS_DEV u32 gs_weights4(const void* p) { return gs_emu_load<u32>(p); }
GS_DEV u16 gs_weights2(const void* p) { return gs_emu_load<u16>(p); }
GS_DEV u8 gs_weights1(const void* p) { return gs_emu_load<u8>(p); }
template <class T> GS_DEV void gs_emu_touch(const T* p) {  // reads it, for sanitizers
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  for (int i = 0; i < 4; i++) (void)((const volatile u32*)p)[i];
#else
  (void)p;
#endif
}
GS_DEV void gs_prefetch_l2(const void*) {}
GS_DEV void gs_pdl_wait() {}
GS_DEV void gs_pdl_launch() {}
template <int N> GS_DEV void gs_copy_small(void* to, const void* from, bool valid) {
  if ((uintptr_t)to % N || (uintptr_t)from % N) gs_emu::fail("misaligned asynchronous copy");
  const gs_emu::Copy c = {to, from, N, valid};
  if (gs_emu::eager) gs_emu::perform(c);
  else gs_emu::me->open.push_back(c);
}
GS_DEV void gs_copy16(void* to, const void* from, bool valid) { gs_copy_small<16>(to, from, valid); }
GS_DEV void gs_copy_commit() {
  gs_emu::me->groups.push_back(std::move(gs_emu::me->open));
  gs_emu::me->open.clear();
}
template <int N> GS_DEV void gs_copy_wait() { gs_emu::finish_copies(N); }

GS_DEV void gs_ldmatrix4(u32 (&r)[4], const void* row) {
  struct Out { u32 r[4]; };
  if ((uintptr_t)row % 16) gs_emu::fail("misaligned ldmatrix row");
  gs_emu_touch(row);
  const Out o = gs_emu::together<const void*, Out>("ldmatrix", row, [](const void** in, Out* out) {
    for (int l = 0; l < 32; l++)
      for (int m = 0; m < 4; m++) memcpy(&out[l].r[m], (const u8*)in[m * 8 + l / 4] + l % 4 * 4, 4);
  });
  for (int m = 0; m < 4; m++) r[m] = o.r[m];
}
GS_DEV void gs_ldmatrix4_t(u32 (&r)[4], const void* row) {
  struct Out { u32 r[4]; };
  if ((uintptr_t)row % 16) gs_emu::fail("misaligned ldmatrix row");
  gs_emu_touch(row);
  const Out o = gs_emu::together<const void*, Out>("ldmatrix.trans", row, [](const void** in, Out* out) {
    for (int l = 0; l < 32; l++)
      for (int m = 0; m < 4; m++) {
        const u16 *a = (const u16*)in[m * 8 + l % 4 * 2], *b = (const u16*)in[m * 8 + l % 4 * 2 + 1];
        out[l].r[m] = a[l / 4] | (u32)b[l / 4] << 16;
      }
  });
  for (int m = 0; m < 4; m++) r[m] = o.r[m];
}
// m16n8k*: PER elements in a register; A(row,k): lane row%8*4 + k%(4*PER)/PER, register row/8 + 2*(k/(4*PER));
// B(k,col): lane col*4 + k%(4*PER)/PER, register k/(4*PER); C(row,col): lane row%8*4 + col/2, register 2*(row/8) + col%2
template <class C, int PER, class Get> GS_DEV void gs_emu_mma(const char* what, C (&d)[4], const u32 (&a)[4], u32 b0,
                                                               u32 b1, Get get) {
  struct In { C d[4]; u32 a[4], b[2]; };
  struct Out { C d[4]; };
  In mine = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  const Out o = gs_emu::together<In, Out>(what, mine, [get](In* in, Out* out) {
    for (int row = 0; row < 16; row++)
      for (int col = 0; col < 8; col++) {
        const int lane = row % 8 * 4 + col / 2, reg = 2 * (row / 8) + col % 2;
        C sum = in[lane].d[reg];
        for (int k = 0; k < 8 * PER; k++) {
          const int part = k % (4 * PER) / PER, half = k / (4 * PER);
          sum += get(in[row % 8 * 4 + part].a[row / 8 + 2 * half], k % PER) * get(in[col * 4 + part].b[half], k % PER);
        }
        out[lane].d[reg] = sum;
      }
  });
  for (int i = 0; i < 4; i++) d[i] = o.d[i];
}
GS_DEV void gs_mma_half(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  gs_emu_mma<float, 2>("mma_half", d, a, b0, b1, [](u32 v, int i) { return gs_half((u16)(v >> (16 * i))); });
}
GS_DEV void gs_mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  gs_emu_mma<float, 2>("mma_bf16", d, a, b0, b1, [](u32 v, int i) { return gs_bits(v >> (16 * i) << 16); });
}
GS_DEV void gs_mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  gs_emu_mma<float, 1>("mma_tf32", d, a, b0, b1, [](u32 v, int) { return gs_bits(v & 0xffffe000); });
}
GS_DEV void gs_mma_int8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  gs_emu_mma<int, 4>("mma_int8", d, a, b0, b1, [](u32 v, int i) { return (int)(i8)(v >> (8 * i)); });
}
GS_DEV void gs_mma_int8_k16(int (&d)[4], u32 a0, u32 a1, u32 b) {
  const u32 a[4] = {a0, a1, 0, 0};
  gs_mma_int8(d, a, b, 0);
}
