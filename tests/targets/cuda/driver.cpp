// A stand-in for the CUDA driver: one device whose memory is the processor's and whose kernels are known by name. With
// it as libcuda.so.1, cuda-core runs where there is no GPU, and a test sees what the driver is told.
//
//     axpy      y[i] = a x[i], for (float* y, const float* x, float a, int n)
//     wrong     the same and one more
//     illegal   an access out of bounds: every later call fails, as with a real context
//     endless   never ends
//
// Every call that matters is a line in the file that DRIVER_LOG names. Built with: g++ -shared -fPIC -o libcuda.so.1
#include <cuda.h>
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define CALL extern "C" CUresult

namespace {

constexpr int DEFAULT_DYNAMIC = 48 << 10, MOST_DYNAMIC = 99 << 10;
constexpr size_t MEMORY = size_t{1} << 32;

struct Stamp {
  double ms = 0;
};
struct Function {
  std::string name;
  int dynamic = DEFAULT_DYNAMIC;
};
struct Step {  // of a graph
  Function* function;
  std::vector<std::vector<char>> arguments;
};
using Steps = std::vector<Step>;

CUresult failed = CUDA_SUCCESS;  // sticky
Steps* capturing = nullptr;
size_t used = 0;

const CUcontext CONTEXT = reinterpret_cast<CUcontext>(0x10);
const CUmemoryPool POOL = reinterpret_cast<CUmemoryPool>(0x20);

template <class... T>
void log(const char* format, T... values) {
  static FILE* file = std::getenv("DRIVER_LOG") ? std::fopen(std::getenv("DRIVER_LOG"), "a") : nullptr;
  if (!file) return;
  std::fprintf(file, format, values...);
  std::fputc('\n', file);
  std::fflush(file);
}

CUresult start(const Function& function, void** arguments) {
  if (failed) return failed;
  log("run %s", function.name.c_str());
  if (function.name == "illegal") failed = CUDA_ERROR_ILLEGAL_ADDRESS;
  while (function.name == "endless") sleep(1);
  if (function.name == "axpy" || function.name == "wrong") {
    float* y = *static_cast<float**>(arguments[0]);
    const float* x = *static_cast<const float**>(arguments[1]);
    const float a = *static_cast<float*>(arguments[2]);
    const int n = *static_cast<int*>(arguments[3]);
    for (int i = 0; i < n; ++i) y[i] = a * x[i] + (function.name == "wrong" ? 1 : 0);
  }
  return CUDA_SUCCESS;  // an error shows at the next synchronisation
}

}  // namespace

// --- device, context, stream

CALL s_cuInit(unsigned) { return CUDA_SUCCESS; }
CALL s_cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CALL s_cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CALL s_cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CALL s_cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  *value = which == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE            ? 3 << 20
           : which == CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED ? 1
           : which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
                                                                   : 1024;
  return CUDA_SUCCESS;
}
CALL s_cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = CONTEXT, CUDA_SUCCESS; }
CALL s_cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CALL s_cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CALL s_cuCtxGetCurrent(CUcontext* context) { return *context = CONTEXT, CUDA_SUCCESS; }
CALL s_cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
CALL s_cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, CUDA_SUCCESS; }
CALL s_cuStreamCreateWithPriority(CUstream* stream, unsigned, int) {
  return *stream = static_cast<CUstream>(std::malloc(8)), CUDA_SUCCESS;
}
CALL s_cuStreamDestroy(CUstream) { return CUDA_SUCCESS; }
CALL s_cuStreamSynchronize(CUstream) { return failed; }
CALL s_cuStreamGetCtx(CUstream, CUcontext* context) { return *context = CONTEXT, CUDA_SUCCESS; }

// --- events

CALL s_cuEventCreate(CUevent* event, unsigned flags) {
  log("event %s %s", flags & CU_EVENT_DISABLE_TIMING ? "untimed" : "timed",
      flags & CU_EVENT_BLOCKING_SYNC ? "blocking" : "spinning");
  return *event = reinterpret_cast<CUevent>(new Stamp), CUDA_SUCCESS;
}
CALL s_cuEventDestroy(CUevent) { return CUDA_SUCCESS; }
CALL s_cuEventRecord(CUevent event, CUstream) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  reinterpret_cast<Stamp*>(event)->ms = 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
  log("record");
  return failed;
}
CALL s_cuEventElapsedTime(float* ms, CUevent start, CUevent end) {
  *ms = static_cast<float>(reinterpret_cast<Stamp*>(end)->ms - reinterpret_cast<Stamp*>(start)->ms);
  return failed;
}
CALL s_cuEventSynchronize(CUevent) { return failed; }

// --- memory

CALL s_cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t size, CUmemoryPool, CUstream) {
  if (used + size > MEMORY) return CUDA_ERROR_OUT_OF_MEMORY;
  auto* block = static_cast<size_t*>(std::malloc(size + 16));
  *block = size;
  used += size;
  log("allocate %zu", size);
  return *pointer = reinterpret_cast<CUdeviceptr>(block + 2), CUDA_SUCCESS;
}
CALL s_cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream stream) {
  return s_cuMemAllocFromPoolAsync(pointer, size, POOL, stream);
}
CALL s_cuMemFreeAsync(CUdeviceptr pointer, CUstream) {
  auto* block = reinterpret_cast<size_t*>(pointer) - 2;
  used -= *block;
  log("free %zu", *block);
  std::free(block);
  return CUDA_SUCCESS;
}
CALL s_cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream) {
  return failed ? failed : (std::memcpy(reinterpret_cast<void*>(to), from, size), CUDA_SUCCESS);
}
CALL s_cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream) {
  return failed ? failed : (std::memcpy(to, reinterpret_cast<void*>(from), size), CUDA_SUCCESS);
}
CALL s_cuMemsetD8Async(CUdeviceptr, unsigned char, size_t size, CUstream) {
  log("flush %zu", size);
  return failed;
}
CALL s_cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) { return *pool = POOL, CUDA_SUCCESS; }
CALL s_cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice) { return *pool = POOL, CUDA_SUCCESS; }
CALL s_cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation*, CUmemAllocationType) { return *pool = POOL, CUDA_SUCCESS; }
CALL s_cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute, void* value) {
  return *static_cast<cuuint64_t*>(value) = 0, CUDA_SUCCESS;
}
CALL s_cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
CALL s_cuMemPoolSetAccess(CUmemoryPool, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

// --- code and launches

CALL s_cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**,
                         unsigned) {
  if (std::strncmp(static_cast<const char*>(code), "another", 7) == 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  return *library = static_cast<CUlibrary>(std::malloc(8)), CUDA_SUCCESS;
}
CALL s_cuLibraryUnload(CUlibrary) { return CUDA_SUCCESS; }
CALL s_cuLibraryGetKernel(CUkernel* kernel, CUlibrary, const char* name) {
  if (std::strcmp(name, "absent") == 0) return CUDA_ERROR_NOT_FOUND;
  return *kernel = reinterpret_cast<CUkernel>(new Function{name}), CUDA_SUCCESS;
}
CALL s_cuKernelGetAttribute(int* value, CUfunction_attribute which, CUkernel kernel, CUdevice) {
  const bool dynamic = which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  return *value = dynamic ? reinterpret_cast<Function*>(kernel)->dynamic : 1, CUDA_SUCCESS;
}
CALL s_cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel, CUdevice) {
  if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > MOST_DYNAMIC) return CUDA_ERROR_INVALID_VALUE;
  log("allow %d", value);
  return reinterpret_cast<Function*>(kernel)->dynamic = value, CUDA_SUCCESS;
}
CALL s_cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  return *function = reinterpret_cast<CUfunction>(kernel), CUDA_SUCCESS;
}
CALL s_cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** arguments, void**) {
  auto* function = reinterpret_cast<Function*>(handle);
  log("launch %s grid %u,%u,%u block %u,%u,%u shared %u", function->name.c_str(), config->gridDimX, config->gridDimY,
      config->gridDimZ, config->blockDimX, config->blockDimY, config->blockDimZ, config->sharedMemBytes);
  if (static_cast<int>(config->sharedMemBytes) > function->dynamic) return CUDA_ERROR_INVALID_VALUE;
  if (!capturing) return start(*function, arguments);
  Step step{function, {}};
  for (const size_t size : {sizeof(void*), sizeof(void*), sizeof(float), sizeof(int)}) {
    const char* argument = static_cast<char*>(arguments[step.arguments.size()]);
    step.arguments.emplace_back(argument, argument + size);
  }
  capturing->push_back(step);
  return CUDA_SUCCESS;
}
CALL s_cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, CUstream, void** arguments, void**) {
  CUlaunchConfig config{};
  config.gridDimX = x, config.gridDimY = y, config.gridDimZ = z;
  config.blockDimX = bx, config.blockDimY = by, config.blockDimZ = bz, config.sharedMemBytes = shared;
  return s_cuLaunchKernelEx(&config, function, arguments, nullptr);
}

// --- graphs

CALL s_cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  return *status = capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CALL s_cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                              const CUgraphNode** nodes, const CUgraphEdgeData** edges, size_t* count) {
  if (id) *id = 1;
  if (graph) *graph = reinterpret_cast<CUgraph>(capturing);
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return s_cuStreamIsCapturing(stream, status);
}
CALL s_cuStreamBeginCapture(CUstream, CUstreamCaptureMode) { return capturing = new Steps, CUDA_SUCCESS; }
CALL s_cuStreamEndCapture(CUstream, CUgraph* graph) {
  *graph = reinterpret_cast<CUgraph>(capturing);
  return capturing = nullptr, CUDA_SUCCESS;
}
CALL s_cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters) {
  if (parameters) parameters->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
  return *executable = reinterpret_cast<CUgraphExec>(graph), CUDA_SUCCESS;
}
CALL s_cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  return s_cuGraphInstantiateWithParams(executable, graph, nullptr);
}
CALL s_cuGraphUpload(CUgraphExec, CUstream) { return CUDA_SUCCESS; }
CALL s_cuGraphLaunch(CUgraphExec executable, CUstream) {
  auto& steps = *reinterpret_cast<Steps*>(executable);
  log("graph of %zu", steps.size());
  for (Step& step : steps) {
    std::vector<void*> arguments;
    for (auto& argument : step.arguments) arguments.push_back(argument.data());
    if (const CUresult result = start(*step.function, arguments.data())) return result;
  }
  return CUDA_SUCCESS;
}
CALL s_cuGraphDestroy(CUgraph) { return CUDA_SUCCESS; }
CALL s_cuGraphExecDestroy(CUgraphExec) { return CUDA_SUCCESS; }
CALL s_cuUserObjectCreate(CUuserObject* object, void*, CUhostFn, unsigned, unsigned) {
  return *object = static_cast<CUuserObject>(std::malloc(8)), CUDA_SUCCESS;
}
CALL s_cuUserObjectRelease(CUuserObject, unsigned) { return CUDA_SUCCESS; }
CALL s_cuGraphRetainUserObject(CUgraph, CUuserObject, unsigned, unsigned) { return CUDA_SUCCESS; }
CALL s_cuGraphReleaseUserObject(CUgraph, CUuserObject, unsigned) { return CUDA_SUCCESS; }

// --- errors, and how everything above is found

CALL s_cuGetErrorName(CUresult result, const char** name) {
  *name = result == CUDA_ERROR_OUT_OF_MEMORY       ? "CUDA_ERROR_OUT_OF_MEMORY"
          : result == CUDA_ERROR_ILLEGAL_ADDRESS   ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : result == CUDA_ERROR_NO_BINARY_FOR_GPU ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : result == CUDA_ERROR_INVALID_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
          : result == CUDA_ERROR_NOT_FOUND         ? "CUDA_ERROR_NOT_FOUND"
                                                   : "CUDA_ERROR_UNKNOWN";
  return CUDA_SUCCESS;
}
CALL s_cuGetErrorString(CUresult, const char** text) { return *text = "as the driver says", CUDA_SUCCESS; }

CALL cuGetProcAddress_v2(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult* status) {
  static void* self = nullptr;
  if (Dl_info here{}; !self && dladdr(reinterpret_cast<void*>(&cuGetProcAddress_v2), &here))
    self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *function = dlsym(self, ("s_" + std::string(name)).c_str());
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
