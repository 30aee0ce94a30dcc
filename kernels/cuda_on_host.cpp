// How is a CUDA kernel run on the processor? See cuda_on_host.h for what is found by it.
//
// A program of one .cu: it reads launches from ./work.txt and buffers from ./buffers.bin, runs, writes ./outputs.bin and
// prints {"done":{"launches":n}}, or {"error":{"reason":"crash","message":"..."}} with status 3.
// work.txt, a line each:
//   seed 7
//   repeats 1
//   buffer 4096 1                        bytes, and whether it is written to outputs.bin at the end
//   launch gemm 4 2 1 256 1 1 8192 2     kernel, grid, block, dynamic shared bytes, arguments
//   pointer 0                            an argument: the buffer's number,
//   value i 4 00100000                   or kind, bytes and content in hexadecimal
//
// Compiled once and without sanitizers; it tells AddressSanitizer, where the program has it, about every change of stacks.
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "cuda_on_host.h"  // last: CUDA's words are macros that the library's headers use otherwise

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {  // of AddressSanitizer; null without it
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size);
__attribute__((weak)) void __sanitizer_print_stack_trace();
}

namespace cuda_on_host {

Thread* thread;
uint3 block_index;
dim3 block_size, grid_size;
void* dynamic_shared;

namespace {

constexpr size_t STACK_BYTES = 512 << 10;  // address space: only what is touched becomes memory
constexpr int WARP = 32, MAX_THREADS = 1024;

enum class Waits { no, barrier, warp, shuffle, ballot, mma };
const char* const NAMES[] = {"", "__syncthreads", "__syncwarp", "a shuffle", "a vote", "a tensor-core product"};

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
  int group;
};

struct Fibre : Thread {
  int number = 0;  // in the block
  Waits waits = Waits::no;
  Site site = {"", 0};
  bool ended = false;
  // What the lane brings to its warp, and takes from it.
  unsigned mask = 0;
  int source = 0;
  unsigned long long bits = 0, result = 0;
  float* d = nullptr;
  const unsigned *a = nullptr, *b = nullptr;
  float (*widened)(unsigned short) = nullptr;
  // Copies not yet done, in order, and the number of groups that were committed.
  std::vector<Copy> copies;
  int groups = 0;
  // The stack. `fake` is AddressSanitizer's.
  char* stack = nullptr;
  size_t stack_bytes = STACK_BYTES;
  void* fake = nullptr;
#if defined(__x86_64__)
  void* top = nullptr;  // the stack pointer while it does not run
#else
  ucontext_t context;
#endif
};

struct Warp {
  unsigned exists = 0, ended = 0, waiting = 0;  // a bit a lane
};

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Warp> warps;
std::vector<Fibre*> ready;
Fibre outside;  // what is not a thread: the loop over blocks
int threads, arrived, ended, barriers;
bool eager;  // in this block, threads that have just been let go run on before others do
const Kernel* kernel;
void* const* arguments;
uint64_t random_state;

uint64_t random_bits() {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

size_t random_below(size_t n) { return static_cast<size_t>((random_bits() >> 32) * n >> 32); }

Fibre& running() { return *static_cast<Fibre*>(thread); }

[[noreturn]] void end_as(const char* reason, const char* message) {
  std::string text;
  for (const char* c = message; *c; c++) {
    if (*c == '"' || *c == '\\') text += '\\';
    text += static_cast<unsigned char>(*c) < ' ' ? ' ' : *c;
  }
  printf("{\"error\":{\"reason\":\"%s\",\"message\":\"%s\"}}\n", reason, text.c_str());
  fflush(stdout);
  _exit(3);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void end_with(const char* format, ...) {
  char text[2048];
  va_list words;
  va_start(words, format);
  vsnprintf(text, sizeof text, format, words);
  va_end(words);
  end_as("crash", text);
}

[[noreturn]] void out_of_memory() { end_as("memory", "no memory is left for buffers, shared memory or stacks"); }

std::string here() {
  char text[256];
  snprintf(text, sizeof text, "%s, block (%u, %u, %u)", kernel->name, block_index.x, block_index.y, block_index.z);
  return text;
}

const char* short_name(const char* file) {
  const char* slash = strrchr(file, '/');
  return slash ? slash + 1 : file;
}

// ---- Changing stacks ----

#if defined(__x86_64__)
// Keeps what a function must keep on the stack, leaves the stack's top in *save and goes on where `top` was left.
extern "C" void cuda_on_host_switch(void** save, void* top);
asm(R"(
.text
.globl cuda_on_host_switch
.type cuda_on_host_switch, @function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_host_switch, .-cuda_on_host_switch
)");
#endif

void arrived_from(Fibre& self) {
  if (__sanitizer_finish_switch_fiber == nullptr) return;
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(self.fake, &bottom, &size);
  if (outside.stack == nullptr) {  // the first change of all: it came from outside, whose stack is now known
    outside.stack = static_cast<char*>(const_cast<void*>(bottom));
    outside.stack_bytes = size;
  }
}

void change(Fibre& from, Fibre& to) {
  if (&from == &to) return;
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(&from.fake, to.stack, to.stack_bytes);
  }
  thread = &to;
#if defined(__x86_64__)
  cuda_on_host_switch(&from.top, to.top);
#else
  swapcontext(&from.context, &to.context);
#endif
  arrived_from(from);
}

[[noreturn]] void deadlock() {
  int at[6] = {};
  const Fibre* example[6] = {};
  for (int i = 0; i < threads; i++) {
    const Fibre& fibre = *fibres[i];
    if (fibre.ended) continue;
    at[static_cast<int>(fibre.waits)]++;
    example[static_cast<int>(fibre.waits)] = &fibre;
  }
  std::string text = here() + ": threads wait for ever after " + std::to_string(barriers) + " barriers: ";
  for (int i = 1; i < 6; i++) {
    if (at[i] == 0) continue;
    text += std::to_string(at[i]) + " at " + NAMES[i] + " (" + short_name(example[i]->site.file) + ":" +
            std::to_string(example[i]->site.line) + "), ";
  }
  end_with("%s%d of %d have ended", text.c_str(), ended, threads);
}

// Goes on with another thread, or outside when all have ended.
void run_another(Fibre& self) {
  if (ready.empty()) {
    if (ended < threads) deadlock();
    change(self, outside);
    return;
  }
  const size_t among = eager ? std::min<size_t>(ready.size(), WARP) : ready.size();
  const size_t chosen = ready.size() - 1 - random_below(among);
  Fibre& next = *ready[chosen];
  ready[chosen] = ready.back();
  ready.pop_back();
  change(self, next);
}

void let_go(Fibre& fibre) {
  fibre.waits = Waits::no;
  ready.push_back(&fibre);
}

// ---- What lanes of a warp do together; the last to come does it for all ----

void multiply(Fibre* const* lanes) {
  float a[16][16], b[16][8];  // rows, columns
  for (int l = 0; l < WARP; l++) {
    const Fibre& lane = *lanes[l];
    const int g = l / 4, t = l % 4;
    for (int half = 0; half < 2; half++) {
      const auto value = [&](unsigned pair) { return lane.widened(static_cast<unsigned short>(pair >> 16 * half)); };
      for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = value(lane.a[i]);
      for (int i = 0; i < 2; i++) b[2 * t + half + 8 * i][g] = value(lane.b[i]);
    }
  }
  for (int l = 0; l < WARP; l++) {
    for (int i = 0; i < 4; i++) {
      const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      float sum = 0.0f;
      for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
      lanes[l]->d[i] += sum;
    }
  }
}

void exchange(Fibre* const* lanes, unsigned taking_part, Waits kind) {
  unsigned votes = 0;
  for (int l = 0; l < WARP; l++) {
    if (taking_part >> l & 1u && lanes[l]->bits != 0) votes |= 1u << l;
  }
  for (int l = 0; l < WARP; l++) {
    if (!(taking_part >> l & 1u)) continue;
    const int source = lanes[l]->source;
    if (kind == Waits::ballot) lanes[l]->result = votes;
    if (kind == Waits::shuffle) lanes[l]->result = taking_part >> source & 1u ? lanes[source]->bits : ~0ull;
  }
  if (kind == Waits::mma) multiply(lanes);
}

// Lets go the lanes that wait with this mask, if all of it that live have come.
void complete(int warp_number, unsigned mask) {
  Warp& warp = warps[warp_number];
  const unsigned wanted = mask & warp.exists & ~warp.ended;
  if ((wanted & ~warp.waiting) != 0) return;
  Fibre* lanes[WARP] = {};
  const Fibre* first = nullptr;
  for (int l = 0; l < WARP; l++) {
    if (!(wanted >> l & 1u)) continue;
    lanes[l] = fibres[warp_number * WARP + l].get();
    if (lanes[l]->mask != mask) return;
    if (first == nullptr) first = lanes[l];
    if (lanes[l]->waits != first->waits) {
      end_with("%s: lanes of a warp meet at %s (%s:%d) and at %s (%s:%d)", here().c_str(),
               NAMES[static_cast<int>(first->waits)], short_name(first->site.file), first->site.line,
               NAMES[static_cast<int>(lanes[l]->waits)], short_name(lanes[l]->site.file), lanes[l]->site.line);
    }
  }
  if (first == nullptr) return;
  if (first->waits == Waits::mma && wanted != 0xffffffffu) {
    end_with("%s: %s (%s:%d) without all 32 lanes", here().c_str(), NAMES[static_cast<int>(Waits::mma)],
             short_name(first->site.file), first->site.line);
  }
  exchange(lanes, wanted, first->waits);
  warp.waiting &= ~wanted;
  for (Fibre* lane : lanes) {
    if (lane != nullptr) let_go(*lane);
  }
}

unsigned long long meet(Waits kind, unsigned mask, Site site) {
  Fibre& self = running();
  const int warp = self.number / WARP, own = self.number % WARP;
  if (!(mask >> own & 1u)) fail(site, "a lane calls with a mask that it is not in");
  self.waits = kind;
  self.mask = mask;
  self.site = site;
  warps[warp].waiting |= 1u << own;
  complete(warp, mask);
  run_another(self);
  return self.result;
}

// ---- The life of a fibre and of a block ----

void end_thread(Fibre& self) {
  self.ended = true;
  ended++;
  Warp& warp = warps[self.number / WARP];
  warp.ended |= 1u << self.number % WARP;
  for (unsigned left = warp.waiting; left != 0; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    if (warp.waiting >> lane & 1u) complete(self.number / WARP, fibres[self.number / WARP * WARP + lane]->mask);
  }
  run_another(self);
}

void live() {
  arrived_from(running());
  for (;;) {  // a thread of every block to come
    kernel->call(arguments);
    end_thread(running());
  }
}

void add_fibre() {
  auto fibre = std::make_unique<Fibre>();
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) out_of_memory();
  fibre->stack = static_cast<char*>(memory) + page;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(fibre->stack + STACK_BYTES);
  *--top = nullptr;                              // where live() returns to, which it never does: 8 bytes off 16, as due
  *--top = reinterpret_cast<void*>(&live);       // where cuda_on_host_switch returns to,
  for (int i = 0; i < 6; i++) *--top = nullptr;  // with empty registers
  fibre->top = top;
#else
  getcontext(&fibre->context);
  fibre->context.uc_stack.ss_sp = fibre->stack;
  fibre->context.uc_stack.ss_size = STACK_BYTES;
  fibre->context.uc_link = nullptr;
  makecontext(&fibre->context, live, 0);
  fibre->context.uc_stack.ss_size = 0;  // or AddressSanitizer would clear its memory of the whole stack at every change
#endif
  fibres.push_back(std::move(fibre));
}

struct Shared {
  void* start = nullptr;
  size_t bytes = 0;
};

// Where the static __shared__ variables lie: this program's thread-local memory is theirs alone.
Shared static_shared() {
  Shared found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {  // the first is the program itself
        for (int i = 0; i < info->dlpi_phnum; i++) {
          if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
          static_cast<Shared*>(out)->start = info->dlpi_tls_data;
          static_cast<Shared*>(out)->bytes = info->dlpi_phdr[i].p_memsz;
        }
        return 1;
      },
      &found);
  return found;
}

void run_block(const Shared& fixed, size_t dynamic_bytes, bool odd) {
  // 0xff is NaN in every format but is -1 as an integer; 0x7f is large in all of them and survives fmaxf.
  const int poison = odd ? 0x7f : 0xff;
  if (fixed.bytes > 0) memset(fixed.start, poison, fixed.bytes);
  memset(dynamic_shared, poison, dynamic_bytes);
  arrived = ended = barriers = 0;
  eager = random_bits() & 1u;
  warps.assign(static_cast<size_t>(threads + WARP - 1) / WARP, Warp());
  ready.clear();
  for (int i = 0; i < threads; i++) {
    Fibre& fibre = *fibres[i];
    const unsigned number = static_cast<unsigned>(i);
    fibre.index = {number % block_size.x, number / block_size.x % block_size.y, number / (block_size.x * block_size.y)};
    fibre.number = i;
    fibre.ended = false;
    fibre.copies.clear();
    fibre.groups = 0;
    warps[i / WARP].exists |= 1u << i % WARP;
    let_go(fibre);
  }
  run_another(outside);
}

void run_launch(size_t dynamic_bytes) {
  threads = static_cast<int>(block_size.x * block_size.y * block_size.z);
  while (static_cast<int>(fibres.size()) < threads) add_fibre();
  // An allocation of its own of exactly this size: what lies beyond it is AddressSanitizer's.
  if (posix_memalign(&dynamic_shared, 16, std::max<size_t>(dynamic_bytes, 1)) != 0) out_of_memory();
  const Shared fixed = static_shared();
  const size_t count = static_cast<size_t>(grid_size.x) * grid_size.y * grid_size.z;
  std::vector<uint32_t> order(count);
  for (size_t i = 0; i < count; i++) {
    const size_t other = random_below(i + 1);
    order[i] = order[other];
    order[other] = static_cast<uint32_t>(i);
  }
  bool odd = random_bits() & 1u;
  for (const uint32_t block : order) {
    block_index = {block % grid_size.x, block / grid_size.x % grid_size.y, block / (grid_size.x * grid_size.y)};
    run_block(fixed, dynamic_bytes, odd);
    odd = !odd;
  }
  free(dynamic_shared);
}

}  // namespace

// ---- What kernels call ----

int lane() { return running().number % WARP; }

void fail(Site site, const char* message) {
  const uint3 t = thread->index;
  if (__sanitizer_print_stack_trace != nullptr) __sanitizer_print_stack_trace();  // to stderr: who called
  end_with("%s, thread (%u, %u, %u): %s (%s:%d)", here().c_str(), t.x, t.y, t.z, message, short_name(site.file), site.line);
}

void barrier(Site site) {
  static Site first;
  Fibre& self = running();
  if (arrived == 0) first = site;
  if (first.line != site.line || strcmp(first.file, site.file) != 0) {
    end_with("%s: threads meet at two __syncthreads after %d barriers (%s:%d and %s:%d)", here().c_str(), barriers,
             short_name(first.file), first.line, short_name(site.file), site.line);
  }
  self.waits = Waits::barrier;
  self.site = site;
  if (++arrived == threads) {
    arrived = 0;
    barriers++;
    for (int i = 0; i < threads; i++) let_go(*fibres[i]);
  }
  run_another(self);
}

void warp_barrier(unsigned mask, Site site) { meet(Waits::warp, mask, site); }

unsigned long long shuffle(unsigned mask, unsigned long long bits, int source, Site site) {
  running().bits = bits;
  running().source = source & (WARP - 1);
  return meet(Waits::shuffle, mask, site);
}

unsigned ballot(unsigned mask, bool vote, Site site) {
  running().bits = vote;
  return static_cast<unsigned>(meet(Waits::ballot, mask, site));
}

void mma(float* d, const unsigned* a, const unsigned* b, float (*widened)(unsigned short), Site site) {
  Fibre& self = running();
  self.d = d;
  self.a = a;
  self.b = b;
  self.widened = widened;
  meet(Waits::mma, 0xffffffffu, site);
}

static void do_copy(const Copy& copy) {
  if (copy.valid) {
    memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  } else {
    memset(copy.to, 0, static_cast<size_t>(copy.bytes));
  }
}

void start_copy(void* to, const void* from, int bytes, bool valid) {
  Fibre& self = running();
  const Copy copy = {to, from, bytes, valid, self.groups};
  if (random_bits() & 1u) {
    do_copy(copy);
  } else {
    self.copies.push_back(copy);
  }
}

void copy_async_commit() { running().groups++; }

void copy_async_wait(int pending) {
  Fibre& self = running();
  size_t done = 0;
  for (; done < self.copies.size() && self.copies[done].group < self.groups - pending; done++) do_copy(self.copies[done]);
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<long>(done));
}

// ---- The program ----

namespace {

struct Buffer {
  void* start;
  size_t bytes;
  bool read_back;
};

struct Launch {
  const Kernel* kernel;
  dim3 grid, block;
  size_t shared_bytes;
  std::vector<unsigned long long> values;  // of its arguments, in their lowest bytes
};

const Kernel* kernel_named(const char* name) {
  for (const Kernel* k = kernels; k->name != nullptr; k++) {
    if (strcmp(k->name, name) == 0) return k;
  }
  end_with("no kernel is called %s", name);
}

unsigned long long argument(FILE* file, const Kernel* of, int number, const std::vector<Buffer>& buffers) {
  char word[16], kind = 'p';
  int bytes = sizeof(void*);
  unsigned long long value = 0;
  size_t buffer = 0;
  if (fscanf(file, "%15s", word) != 1) end_with("work.txt ends too early");
  if (strcmp(word, "pointer") == 0 && fscanf(file, "%zu", &buffer) == 1 && buffer < buffers.size()) {
    value = reinterpret_cast<uintptr_t>(buffers[buffer].start);
  } else if (strcmp(word, "value") != 0 || fscanf(file, " %c %d %llx", &kind, &bytes, &value) != 3) {
    end_with("work.txt has no argument where one is due");
  }
  const Parameter& parameter = of->parameter[number];
  if (parameter.kind != kind || parameter.bytes != bytes) {
    end_with("%s: argument %d is a %s of %d bytes; the kernel takes a %s of %d", of->name, number,
             kind == 'p' ? "pointer" : kind == 'f' ? "floating-point number" : "integer", bytes,
             parameter.kind == 'p' ? "pointer" : parameter.kind == 'f' ? "floating-point number" : "integer",
             parameter.bytes);
  }
  return value;
}

Launch launch(FILE* file, const std::vector<Buffer>& buffers) {
  Launch l;
  char name[256];
  int count;
  if (fscanf(file, "%255s %u %u %u %u %u %u %zu %d", name, &l.grid.x, &l.grid.y, &l.grid.z, &l.block.x, &l.block.y,
             &l.block.z, &l.shared_bytes, &count) != 9) {
    end_with("work.txt: a launch is not whole");
  }
  l.kernel = kernel_named(name);
  const size_t size = static_cast<size_t>(l.block.x) * l.block.y * l.block.z;
  if (size < 1 || size > MAX_THREADS) end_with("%s: blocks of %zu threads; a GPU runs 1 to 1024", name, size);
  if (l.grid.x < 1 || l.grid.y < 1 || l.grid.z < 1 || l.grid.y > 65535 || l.grid.z > 65535) {
    end_with("%s: a grid of %u x %u x %u; a GPU has no such grid", name, l.grid.x, l.grid.y, l.grid.z);
  }
  if (count != l.kernel->parameters) end_with("%s: %d arguments; it takes %d", name, count, l.kernel->parameters);
  for (int i = 0; i < count; i++) l.values.push_back(argument(file, l.kernel, i, buffers));
  return l;
}

void run(const Launch& l) {
  std::vector<void*> addresses;
  for (const unsigned long long& value : l.values) addresses.push_back(const_cast<unsigned long long*>(&value));
  kernel = l.kernel;
  arguments = addresses.data();
  grid_size = l.grid;
  block_size = l.block;
  run_launch(l.shared_bytes);
}

int work() {
  FILE* file = fopen("work.txt", "r");
  FILE* contents = fopen("buffers.bin", "rb");
  if (file == nullptr || contents == nullptr) end_with("there is no work.txt or no buffers.bin here");
  std::vector<Buffer> buffers;
  std::vector<Launch> launches;
  int repeats = 1;
  char word[16];
  while (fscanf(file, "%15s", word) == 1) {
    if (strcmp(word, "seed") == 0) {
      if (fscanf(file, "%lu", &random_state) != 1) end_with("work.txt: no seed");
    } else if (strcmp(word, "repeats") == 0) {
      if (fscanf(file, "%d", &repeats) != 1) end_with("work.txt: no number of repeats");
    } else if (strcmp(word, "buffer") == 0) {
      Buffer buffer = {};
      int back = 0;
      if (fscanf(file, "%zu %d", &buffer.bytes, &back) != 2) end_with("work.txt: a buffer is not whole");
      buffer.read_back = back != 0;
      if (posix_memalign(&buffer.start, 256, std::max<size_t>(buffer.bytes, 1)) != 0) out_of_memory();
      if (fread(buffer.start, 1, buffer.bytes, contents) != buffer.bytes) end_with("buffers.bin ends too early");
      buffers.push_back(buffer);
    } else if (strcmp(word, "launch") == 0) {
      launches.push_back(launch(file, buffers));
    } else {
      end_with("work.txt: what is %s?", word);
    }
  }
  for (int i = 0; i < repeats; i++) {
    for (const Launch& l : launches) run(l);
  }
  FILE* outputs = fopen("outputs.bin", "wb");
  for (const Buffer& buffer : buffers) {
    if (buffer.read_back && fwrite(buffer.start, 1, buffer.bytes, outputs) != buffer.bytes) end_with("the disk is full");
  }
  if (fclose(outputs) != 0) end_with("the disk is full");
  printf("{\"done\":{\"launches\":%zu}}\n", launches.size());
  fflush(stdout);
  _exit(0);  // nothing is left to do, and stacks of fibres are nobody's to unwind
}

}  // namespace
}  // namespace cuda_on_host

int main() { return cuda_on_host::work(); }
