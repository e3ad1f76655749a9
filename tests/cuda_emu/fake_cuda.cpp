// A libcuda.so.1 without a GPU: the unmodified cuda.core runs on it, with kernels that g++ built (a "cubin" is such a
// shared library). Streams are lazy on purpose: work runs only when a sync, or an event that somebody waits for,
// forces it, and then no more than that takes, its independent parts in random order. So a missing wait shows as wrong
// results. As soon as a stream waits for a word of host memory, or writes one, a thread of this library works on what is
// queued, in another order each time, with pauses: then the host's own program and the streams run side by side. The same
// once somebody asks whether an event is done without waiting for it. gs_prefer() makes the order as bad as it can be for
// one missing wait. Events take the time of this machine, from when this library was loaded.
// Device memory starts as NaN and ends at an unreadable page. Only what this project calls is here; cuda.core
// is given functions that say their name and fail for the rest.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int
typedef uint64_t u64;
typedef uint32_t u32;
enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719,
       NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900 };

// ---- work
struct Work {
  std::vector<std::shared_ptr<Work>> after;
  std::function<int()> run;
  std::function<bool()> ready;  // beside what it comes after: a word of host memory
  std::shared_ptr<struct Mark> mark;  // it records an event
  const void* stream = nullptr;
  bool done = false, is_kernel = false;
};
typedef std::shared_ptr<Work> WorkPtr;
static int failed = OK;  // like a GPU's context: after a fault every call says so
static unsigned drawn() {  // seeded at first use: a fork has a seed of its own
  static std::mt19937 rng(getenv("GS_FAKE_SEED") ? atoi(getenv("GS_FAKE_SEED")) : 1);
  return rng();
}
static std::recursive_mutex& mutex = *new std::recursive_mutex;  // never destroyed: the worker may hold it at exit
static auto& progress = *new std::condition_variable_any;
static auto& pending = *new std::map<const void*, std::deque<WorkPtr>>;  // of each stream, in the order queued
static const void *preferred = nullptr, *avoided = nullptr;
static bool driven = false, stopping = false;
static int awaited = 0;  // calls that wait for work
static std::chrono::steady_clock::time_point queued_at;
struct Guard {
  std::unique_lock<std::recursive_mutex> lock{mutex};
};

static void perform(const WorkPtr& w) {
  w->done = true;
  if (w->run && !failed) failed = w->run();
  w->run = nullptr, w->ready = nullptr, w->mark = nullptr, w->after.clear();
}
static void force(WorkPtr w) {
  if (!w || w->done) return;
  if (driven) {
    std::unique_lock<std::recursive_mutex> lock(mutex);
    lock.release()->unlock();  // the caller's guard is the only hold; wait() gives that up
    std::unique_lock<std::recursive_mutex> held(mutex, std::adopt_lock);
    awaited++;
    progress.wait(held, [&] { return w->done; });
    awaited--;
    held.release();
    return;
  }
  std::vector<WorkPtr> after = w->after;
  for (size_t i = after.size(); i > 1; i--) std::swap(after[i - 1], after[drawn() % i]);
  for (auto& a : after) force(a);
  if (!w->done) perform(w);
}
enum { WINDOW = 8 };  // of a stream's work, how much may be out of order: branches of a graph
static bool runnable(const Work& w) {
  for (auto& a : w.after)
    if (!a->done) return false;
  return failed || !w.ready || w.ready();
}
static WorkPtr runnable_of(std::deque<WorkPtr>& queue) {  // work is queued behind what it comes after
  while (!queue.empty() && queue.front()->done) queue.pop_front();
  const size_t n = queue.size() < WINDOW ? queue.size() : WINDOW, start = n ? drawn() % n : 0;
  for (size_t i = 0; i < n; i++) {
    auto& w = queue[(start + i) % n];
    if (!w->done && runnable(*w)) return w;
  }
  return nullptr;
}
static void drive() {  // the worker: the stream that is liked best goes on as long as it can
  std::map<const void*, u32> liking;
  auto alone_since = std::chrono::steady_clock::now();  // when the avoided stream became the only one with work
  for (;;) {
    {
      Guard guard;
      if (stopping) return;
      const auto now = std::chrono::steady_clock::now();
      // not before all streams have their work: else the first one queued would always be ahead
      const bool settled = now - queued_at > std::chrono::milliseconds(1) || awaited;
      if (drawn() % 128 == 0) liking.clear();
      WorkPtr best;
      u32 most = 0;
      bool is_avoided = false;
      for (auto& [stream, queue] : pending) {
        if (queue.empty() || (!settled && stream != preferred)) continue;
        if (!liking.count(stream)) liking[stream] = drawn() / 2 | 1;
        const u32 like = stream == preferred ? ~0u : stream == avoided ? 1 : liking[stream] + 1;
        if (like <= most) continue;
        if (auto w = runnable_of(queue)) best = w, most = like, is_avoided = stream == avoided;
      }
      if (best && !is_avoided) alone_since = now;
      if (is_avoided && now - alone_since < std::chrono::milliseconds(2)) best = nullptr;  // the host may bring others on
      if (best) perform(best), progress.notify_all();
      if (best && drawn() % 32) continue;
    }
    usleep(drawn() % 100);
  }
}
static void start_worker() {
  if (driven) return;
  driven = true;
  std::thread(drive).detach();
}
static void queue(const WorkPtr& w, const void* stream) {
  queued_at = std::chrono::steady_clock::now();
  auto& own = pending[stream];
  while (!own.empty() && own.front()->done) own.pop_front();
  own.push_back(w);
}
struct Graph {
  std::vector<WorkPtr> nodes;  // templates, in the order of capture
};
struct Stream {
  WorkPtr last;
  Graph* capture = nullptr;
};
struct Mark {  // an event, which work may outlive
  WorkPtr at;
  Graph* capture = nullptr;
  double ms = 0;
};
struct Event {
  std::shared_ptr<Mark> mark = std::make_shared<Mark>();
};
static std::vector<Stream*> streams;
static Stream legacy;
static Stream* stream_of(void* s) { return (u64)s <= 2 ? &legacy : (Stream*)s; }
static int enqueue(void* s, std::function<int()> run, std::function<bool()> ready = nullptr) {
  Guard guard;
  Stream* st = stream_of(s);
  auto w = std::make_shared<Work>();
  if (st->last) w->after.push_back(st->last);
  w->run = std::move(run), w->ready = std::move(ready);
  st->last = w;
  if (st->capture) st->capture->nodes.push_back(w);
  else queue(w, st);
  return failed;
}
extern "C" void gs_prefer(const void* first, const void* last) {
  Guard guard;
  preferred = first, avoided = last;
}
static int sync_all() {
  Guard guard;
  for (auto s : streams)
    if (!s->capture) force(s->last);
  force(legacy.last);
  return failed;
}

// ---- memory
struct Block {
  char* map;
  size_t mapped, size;
};
static std::map<u64, Block> blocks;
static std::map<u64, size_t> pinned;  // host memory that copies read late
static u64 reserve(size_t n) {
  const size_t page = 4096, room = (n + 255) / 256 * 256, size = (room + page - 1) / page * page;
  char* m = (char*)mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m == MAP_FAILED) return 0;
  mprotect(m + size, page, PROT_NONE);
  memset(m, 0xff, size);
  const u64 at = (u64)m + size - room;
  blocks[at] = {m, size + page, n};
  return at;
}
static size_t in_use = 0;
static size_t memory_size() { return getenv("GS_FAKE_MEMORY") ? atoll(getenv("GS_FAKE_MEMORY")) : 1ull << 32; }
static int allocate(u64* p, size_t n) {
  Guard guard;
  if (in_use + n > memory_size() || !(*p = reserve(n))) return NO_MEMORY;
  return in_use += n, failed;
}
static int release(u64 p) {
  Guard guard;
  auto it = blocks.find(p);
  if (it == blocks.end()) return INVALID_VALUE;
  munmap(it->second.map, it->second.mapped);
  in_use -= it->second.size;
  blocks.erase(it);
  return OK;
}
static void* const CONTEXT = (void*)0x1000;
static void* const POOL = (void*)0x2000;
static thread_local void* current = nullptr;
static int current_device() { return current ? (int)((char*)current - (char*)CONTEXT) : 0; }

// ---- start, devices, context
static int env(const char* name, int fallback) { return getenv(name) ? atoi(getenv(name)) : fallback; }
static int can_wait_for_words() { return env("GS_FAKE_MEM_OPS", 1); }
API cuInit(u32) { return env("GS_FAKE_INIT", OK); }
API cuDriverGetVersion(int* v) { return *v = env("GS_FAKE_VERSION", 13000), OK; }
API cuDeviceGetCount(int* n) { return *n = env("GS_FAKE_DEVICES", 1), OK; }
API cuDeviceGet(int* d, int i) { return i < env("GS_FAKE_DEVICES", 1) ? (*d = i, OK) : 101; }
API cuDeviceGetName(char* s, int n, int) { return snprintf(s, n, "stand-in"), OK; }
API cuDeviceGetUuid_v2(char* u, int d) { return memset(u, 7 + d, 16), OK; }
API cuDeviceGetPCIBusId(char* s, int n, int d) { return snprintf(s, n, "0000:%02x:00.0", d + 1), OK; }
API cuDeviceTotalMem_v2(size_t* n, int) { return *n = memory_size(), OK; }
API cuDeviceGetAttribute(int* v, int which, int) {
  static const std::map<int, int> known = {{1, 1024}, {8, 49152}, {10, 32}, {16, 4}, {75, 9}, {76, 0}, {38, 1 << 20},
                                           {97, 232448}, {115, 1}, {40, 2}, {41, 1}};
  if (which == 122) return *v = can_wait_for_words(), OK;
  auto it = known.find(which);
  return *v = it == known.end() ? 0 : it->second, OK;
}
API cuDevicePrimaryCtxRetain(void** c, int d) { return *c = (char*)CONTEXT + d, OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuDevicePrimaryCtxGetState(int, u32* flags, int* active) { return *flags = 0, *active = current != nullptr, OK; }
API cuCtxGetCurrent(void** c) { return *c = current, OK; }
API cuCtxSetCurrent(void* c) { return current = c, OK; }
API cuCtxPushCurrent_v2(void* c) { return current = c, OK; }
API cuCtxPopCurrent_v2(void** c) { return c && (*c = current), OK; }
API cuCtxGetDevice(int* d) { return *d = current_device(), OK; }
API cuCtxGetDevice_v2(int* d, void* c) { return *d = c ? (int)((char*)c - (char*)CONTEXT) : current_device(), OK; }
API cuCtxSynchronize() { return sync_all(); }
API cuCtxGetStreamPriorityRange(int* low, int* high) { return *low = 0, *high = -5, OK; }
API cuGetErrorName(int e, const char** s) {
  static const std::map<int, const char*> names = {{0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"},
      {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"}, {500, "CUDA_ERROR_NOT_FOUND"},
      {600, "CUDA_ERROR_NOT_READY"}, {801, "CUDA_ERROR_NOT_SUPPORTED"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {719, "CUDA_ERROR_LAUNCH_FAILED"}};
  auto it = names.find(e);
  return *s = it == names.end() ? "CUDA_ERROR_OF_THE_STAND_IN" : it->second, OK;
}
API cuGetErrorString(int e, const char** s) { return cuGetErrorName(e, s); }

// ---- streams, events
API cuStreamCreateWithPriority(void** s, u32, int) {
  Guard guard;
  streams.push_back(new Stream);
  return *s = streams.back(), OK;
}
API cuStreamDestroy_v2(void* s) {
  Guard guard;
  force(((Stream*)s)->last);
  pending.erase(s);
  for (size_t i = 0; i < streams.size(); i++)
    if (streams[i] == s) {
      streams.erase(streams.begin() + i), delete (Stream*)s;
      break;
    }
  return OK;
}
API cuStreamSynchronize(void* s) {
  Guard guard;
  if (stream_of(s)->capture) return CAPTURE_UNSUPPORTED;
  force(stream_of(s)->last);
  return failed;
}
API cuStreamQuery(void* s) { Guard guard; return !stream_of(s)->last || stream_of(s)->last->done ? failed : NOT_READY; }
API cuStreamGetCtx(void*, void** c) { return *c = CONTEXT, OK; }
API cuStreamGetCtx_v2(void*, void** c, void** g) { return *c = CONTEXT, g && (*g = nullptr), OK; }
API cuStreamGetDevice(void*, int* d) { return *d = 0, OK; }
API cuStreamGetFlags(void*, u32* f) { return *f = 1, OK; }
API cuStreamGetPriority(void*, int* p) { return *p = 0, OK; }
API cuStreamWaitEvent(void* s, Event* e, u32) {
  Guard guard;
  Stream* st = stream_of(s);
  if (!e->mark->at) return OK;
  if (e->mark->capture) st->capture = e->mark->capture;  // a wait on a captured event joins its capture
  auto w = std::make_shared<Work>();
  if (st->last) w->after.push_back(st->last);
  w->after.push_back(e->mark->at);
  st->last = w;
  if (st->capture) st->capture->nodes.push_back(w);
  else queue(w, st);
  return failed;
}
// a wait for, and a write of, a word of host memory
static std::atomic<long> word_operations{0};
API cuStreamWaitValue32_v2(void* s, u64 at, u32 value, u32) {
  word_operations++;
  if (!can_wait_for_words()) return NOT_SUPPORTED;
  if (!stream_of(s)->capture) start_worker();
  return enqueue(s, nullptr, [=] { return __atomic_load_n((const u32*)at, __ATOMIC_ACQUIRE) >= value; });
}
API cuStreamWriteValue32_v2(void* s, u64 at, u32 value, u32) {
  word_operations++;
  if (!can_wait_for_words()) return NOT_SUPPORTED;
  if (!stream_of(s)->capture) start_worker();
  return enqueue(s, [=] { return __atomic_store_n((u32*)at, value, __ATOMIC_RELEASE), OK; });
}
static std::atomic<long> events{0};
static const auto loaded = std::chrono::steady_clock::now();
static int tick(const std::shared_ptr<Mark>& m) {
  m->ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - loaded).count();
  return OK;
}
API cuEventCreate(Event** e, u32) { return events++, *e = new Event, OK; }
API cuEventDestroy_v2(Event* e) { return events--, delete e, OK; }
API cuEventRecordWithFlags(Event* e, void* s, u32 flags) {
  Guard guard;
  Stream* st = stream_of(s);
  auto m = e->mark;
  if ((flags == 1) > (st->capture != nullptr)) return INVALID_VALUE;
  if (st->capture && flags == 0) return m->at = st->last, m->capture = st->capture, failed;
  if (int error = enqueue(s, [m] { return tick(m); })) return error;
  st->last->mark = m;
  if (!st->capture) m->at = st->last, m->capture = nullptr;
  return failed;
}
API cuEventRecord(Event* e, void* s) { return cuEventRecordWithFlags(e, s, 0); }
API cuEventSynchronize(Event* e) { Guard guard; return force(e->mark->at), failed; }
API cuEventQuery(Event* e) {
  Guard guard;
  if (!e->mark->at || e->mark->at->done || failed) return failed;
  start_worker();  // who asks again and again expects that work goes on meanwhile
  return NOT_READY;
}
API cuEventElapsedTime_v2(float* ms, Event* a, Event* b) {
  Guard guard;
  for (auto e : {a, b}) {
    if (!e->mark->at) return INVALID_VALUE;
    if (!e->mark->at->done) return NOT_READY;
  }
  return *ms = (float)(b->mark->ms - a->mark->ms), failed;
}
API cuEventElapsedTime(float* ms, Event* a, Event* b) { return cuEventElapsedTime_v2(ms, a, b); }

// ---- memory calls
API cuMemAlloc_v2(u64* p, size_t n) { return allocate(p, n); }
API cuMemAllocAsync(u64* p, size_t n, void*) { return allocate(p, n); }
API cuMemAllocFromPoolAsync(u64* p, size_t n, void*, void*) { return allocate(p, n); }
API cuMemFree_v2(u64 p) { return sync_all(), release(p); }
API cuMemFreeAsync(u64 p, void* s) { return enqueue(s, [p] { return release(p); }); }
API cuMemGetInfo_v2(size_t* a, size_t* b) { return *a = memory_size() - in_use, *b = memory_size(), OK; }
API cuDeviceGetDefaultMemPool(void** p, int) { return *p = POOL, OK; }
API cuDeviceGetMemPool(void** p, int) { return *p = POOL, OK; }
API cuDeviceSetMemPool(int, void*) { return OK; }
API cuMemPoolSetAttribute(void*, int, void*) { return OK; }
API cuMemPoolGetAttribute(void*, int, void* v) { return *(u64*)v = 0, OK; }
API cuMemGetDefaultMemPool(void** p, void*, int) { return *p = POOL, OK; }
API cuMemGetMemPool(void** p, void*, int) { return *p = POOL, OK; }
API cuMemPoolGetAccess(u32* flags, void*, void*) { return *flags = 3, OK; }
API cuPointerGetAttribute(void* data, int which, u64) { return which == 2 ? (*(int*)data = 2) : (*(u64*)data = 0), OK; }
API cuPointerGetAttributes(u32 n, int* which, void** data, u64) {
  for (u32 i = 0; i < n; i++) *(u32*)data[i] = which[i] == 2 ? 2 : 0;
  return OK;
}
API cuMemAllocHost_v2(void** p, size_t n) {
  Guard guard;
  size_t locked = n;
  for (auto& [at, size] : pinned) locked += size;
  if (getenv("GS_FAKE_PINNED") && locked > (size_t)atoll(getenv("GS_FAKE_PINNED"))) return NO_MEMORY;
  return pinned[(u64)(*p = aligned_alloc(4096, (n + 4095) / 4096 * 4096))] = n, OK;
}
API cuMemHostAlloc(void** p, size_t n, u32) { return cuMemAllocHost_v2(p, n); }
API cuMemFreeHost(void* p) {
  sync_all();
  Guard guard;
  return pinned.erase((u64)p), free(p), OK;
}
// what is alive: device blocks, host blocks, streams, events, modules, graphs; calls of stream memory operations
static std::atomic<long> modules{0}, graphs{0};
extern "C" void gs_live(long* n) {
  Guard guard;
  n[0] = blocks.size(), n[1] = pinned.size(), n[2] = streams.size();
  n[3] = events, n[4] = modules, n[5] = graphs, n[6] = word_operations;
}
// pageable memory is read before the call returns, as the real driver does for small copies at least
API cuMemcpyHtoDAsync_v2(u64 dst, const void* src, size_t n, void* s) {
  Guard guard;
  auto at = pinned.upper_bound((u64)src);
  if (at != pinned.begin() && (--at, (u64)src < at->first + at->second))  // read when the copy engine comes to it
    return enqueue(s, [=] { return memcpy((void*)dst, src, n), OK; });
  auto copy = std::make_shared<std::string>((const char*)src, n);
  return enqueue(s, [=] { return memcpy((void*)dst, copy->data(), n), OK; });
}
API cuMemcpyDtoHAsync_v2(void* dst, u64 src, size_t n, void* s) {
  return enqueue(s, [=] { return memcpy(dst, (void*)src, n), OK; });
}
API cuMemcpyDtoDAsync_v2(u64 dst, u64 src, size_t n, void* s) {
  return enqueue(s, [=] { return memcpy((void*)dst, (void*)src, n), OK; });
}
API cuMemcpyAsync(u64 dst, u64 src, size_t n, void* s) { return cuMemcpyDtoDAsync_v2(dst, src, n, s); }
API cuMemsetD8Async(u64 dst, unsigned char v, size_t n, void* s) {
  return enqueue(s, [=] { return memset((void*)dst, v, n), OK; });
}

// ---- kernels
struct Library {
  void* handle;
};
struct Kernel {
  Library* library;
  std::string name;
  const u32* sizes;
  int (*run)(void**, const u32*, u32, u32, char*);
  int dynamic = 49152;
};
API cuLibraryLoadData(Library** out, const void* code, void*, void*, u32, void*, void*, u32) {
  const unsigned char* elf = (const unsigned char*)code;
  u64 sections;
  uint16_t size, count;
  memcpy(&sections, elf + 40, 8), memcpy(&size, elf + 58, 2), memcpy(&count, elf + 60, 2);
  char path[] = "/tmp/stand-in-XXXXXX";
  const int fd = mkstemp(path);
  const size_t n = sections + (size_t)size * count;  // the section table is an ELF file's end
  if (fd < 0 || write(fd, code, n) != (ssize_t)n) return INVALID_VALUE;
  close(fd);
  void* h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  unlink(path);
  if (!h) return fprintf(stderr, "stand-in: %s\n", dlerror()), 200;
  return modules++, *out = new Library{h}, OK;
}
API cuLibraryUnload(Library*) { return modules--, OK; }
API cuLibraryGetKernel(Kernel** out, Library* l, const char* name) {
  const std::string n = name;
  auto run = (int (*)(void**, const u32*, u32, u32, char*))dlsym(l->handle, ("gs_run_" + n).c_str());
  auto sizes = (const u32* (*)())dlsym(l->handle, ("gs_sizes_" + n).c_str());
  if (!run || !sizes) return NOT_FOUND;
  return *out = new Kernel{l, n, sizes(), run}, OK;
}
API cuKernelGetLibrary(Library** l, Kernel* k) { return *l = k->library, OK; }
API cuKernelGetFunction(Kernel** f, Kernel* k) { return *f = k, OK; }
API cuKernelGetParamInfo(Kernel* k, size_t i, size_t* at, size_t* size) {
  size_t o = 0;
  for (size_t j = 0; k->sizes[j]; j++) {
    o = (o + k->sizes[j] - 1) / k->sizes[j] * k->sizes[j];
    if (j == i) return *at = o, size && (*size = k->sizes[j]), OK;
    o += k->sizes[j];
  }
  return INVALID_VALUE;
}
API cuKernelGetAttribute(int* v, int, Kernel*, int) { return *v = 0, OK; }
API cuKernelSetAttribute(int which, int v, Kernel* k, int) {
  if (v > 232448) return INVALID_VALUE;
  return which == 8 ? (k->dynamic = v) : 0, OK;
}
struct Config {  // CUlaunchConfig
  u32 grid[3], block[3], shared;
  void* stream;
  void* attributes;
  u32 count;
};
struct Attribute {  // CUlaunchAttribute
  int id, pad, value[16];
};
static long overlapping[2];  // kernels that may begin while what is before them still runs; those whose before is no kernel
API gs_overlaps(long* counts) { return counts[0] = overlapping[0], counts[1] = overlapping[1], OK; }
static void count_overlap(const Config& c) {
  const WorkPtr& before = stream_of(c.stream)->last;
  for (u32 i = 0; i < c.count; i++) {
    const Attribute& a = ((const Attribute*)c.attributes)[i];
    if (a.id != 6 || !a.value[0]) continue;  // programmatic stream serialization
    overlapping[0]++, overlapping[1] += !before || !before->is_kernel;
  }
}
API cuLaunchKernelEx(const Config* c, Kernel* k, void** args, void**) {
  Guard guard;
  const Config config = *c;
  const u32 *g = config.grid, most[3] = {0x7fffffff, 0xffff, 0xffff};
  if ((int)config.shared > k->dynamic || config.block[0] > 1024) return INVALID_VALUE;
  for (int i = 0; i < 3; i++)
    if (!g[i] || g[i] > most[i]) return INVALID_VALUE;
  auto values = std::make_shared<std::vector<u64>>();
  for (size_t i = 0; k->sizes[i]; i++) {
    u64 v = 0;
    memcpy(&v, args[i], k->sizes[i]);
    values->push_back(v);
  }
  count_overlap(config);
  const int status = enqueue(config.stream, [=] {
    std::vector<void*> at;
    for (auto& v : *values) at.push_back(&v);
    const u32 dims[4] = {config.grid[0], config.grid[1], config.grid[2], config.block[0]};
    char text[512];
    static int left = env("GS_FAKE_FAULT_AFTER", 0);  // kernels
    if (left && !--left) return env("GS_FAKE_FAULT", LAUNCH_FAILED);
    if (!k->run(at.data(), dims, config.shared, drawn() % 8, text)) return (int)OK;
    return fprintf(stderr, "stand-in: %s: %s\n", k->name.c_str(), text), (int)LAUNCH_FAILED;
  });
  stream_of(config.stream)->last->is_kernel = true;
  return status;
}
API cuLaunchKernel(Kernel* k, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void* s, void** args, void** e) {
  const Config c = {{gx, gy, gz}, {bx, by, bz}, shared, s, nullptr, 0};
  return cuLaunchKernelEx(&c, k, args, e);
}

// ---- capture and graphs
static WorkPtr before_capture(Stream* s) { return s->capture ? nullptr : s->last; }
API cuStreamBeginCapture_v2(Stream* s, int) {
  Guard guard;
  s->capture = new Graph;
  force(before_capture(s));
  force(s->last);
  s->last = nullptr;
  return failed;
}
API cuStreamEndCapture(Stream* s, Graph** g) {
  Guard guard;
  *g = s->capture, s->capture = nullptr, s->last = nullptr, graphs++;
  for (auto other : streams)
    if (other->capture == *g) other->capture = nullptr, other->last = nullptr;
  return failed;
}
API cuStreamIsCapturing(void* s, int* status) { return *status = stream_of(s)->capture ? 1 : 0, OK; }
API cuStreamGetCaptureInfo_v2(void* s, int* status, u64* id, Graph** g, void*, size_t*) {
  *status = stream_of(s)->capture ? 1 : 0;
  if (id) *id = (u64)stream_of(s)->capture;
  if (g) *g = stream_of(s)->capture;
  return OK;
}
API cuStreamGetCaptureInfo_v3(void* s, int* status, u64* id, Graph** g, void* a, void*, size_t* b) {
  return cuStreamGetCaptureInfo_v2(s, status, id, g, a, b);
}
API cuGraphInstantiateWithParams(Graph** e, Graph* g, void* params) {
  memset((char*)params + 24, 0, 4);  // result_out: success
  return graphs++, *e = new Graph(*g), OK;
}
API cuGraphInstantiateWithFlags(Graph** e, Graph* g, u64) { return graphs++, *e = new Graph(*g), OK; }
API cuGraphUpload(Graph*, void*) { return failed; }
API cuGraphLaunch(Graph* g, void* s) {
  Guard guard;
  std::map<Work*, WorkPtr> copy;
  const WorkPtr before = stream_of(s)->last;
  auto end = std::make_shared<Work>();
  for (auto& n : g->nodes) {
    auto w = copy[n.get()] = std::make_shared<Work>();
    w->run = n->run, w->ready = n->ready;
    if ((w->mark = n->mark)) w->mark->at = w, w->mark->capture = nullptr;
    if (n->ready) start_worker();
    for (auto& a : n->after)
      if (copy.count(a.get())) w->after.push_back(copy[a.get()]);
    if (before) w->after.push_back(before);
    end->after.push_back(w);
    queue(w, stream_of(s));
  }
  if (before) end->after.push_back(before);
  queue(end, stream_of(s));
  return stream_of(s)->last = end, failed;
}
API cuUserObjectCreate(void** o, void* p, void (*)(void*), u32, u32) { return *o = p, OK; }  // kept for ever
API cuUserObjectRetain(void*, u32) { return OK; }
API cuUserObjectRelease(void*, u32) { return OK; }
API cuGraphRetainUserObject(Graph*, void*, u32, u32) { return OK; }
API cuGraphReleaseUserObject(Graph*, void*, u32) { return OK; }
API cuGraphDestroy(Graph* g) { return graphs--, delete g, OK; }
API cuGraphExecDestroy(Graph* g) {
  Guard guard;
  return graphs--, delete g, OK;
}
API cuGraphDebugDotPrint(Graph*, const char*, u32) { return OK; }

// ---- finding all this
static std::vector<std::string> missing;
template <size_t N> static int absent() {
  return fprintf(stderr, "stand-in: %s is not implemented\n", missing[N].c_str()), NOT_FOUND;
}
template <size_t... N> static void* absent_at(size_t i, std::index_sequence<N...>) {
  static int (*const all[])() = {absent<N>...};
  return i < sizeof...(N) ? (void*)all[i] : nullptr;
}
API cuGetProcAddress_v2(const char* name, void** out, int, u64, int* status) {
  static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  for (const char* suffix : {"_v2", "_v3", ""}) {
    *out = dlsym(self, (std::string(name) + suffix).c_str());
    if (*out) break;
  }
  if (!*out) {  // what says its name when it is called
    missing.push_back(name);
    *out = absent_at(missing.size() - 1, std::make_index_sequence<1024>());
  }
  if (status) *status = *out ? 0 : 1;
  return OK;
}
API cuGetProcAddress(const char* name, void** out, int v, u64 f) { return cuGetProcAddress_v2(name, out, v, f, nullptr); }
API cuLaunchHostFunc(void* s, void (*run)(void*), void* data) {  // only for the stand-in of cuBLASLt
  return enqueue(s, [=] { return run(data), OK; });
}
static struct Stop {
  ~Stop() {
    Guard guard;
    stopping = true;
  }
} stop;
