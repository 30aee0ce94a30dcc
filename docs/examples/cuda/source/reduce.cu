// The sum of many floats on a GPU: each thread adds several, a block adds its threads, the host adds the blocks.
#include <cstdio>
#include <vector>

#ifndef THREADS
#define THREADS 256
#endif
#ifndef EACH
#define EACH 4 // floats that a thread adds
#endif

extern "C" __global__ void reduce(const float* x, float* sums, int n) {
  __shared__ float part[THREADS];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int at = (blockIdx.x * EACH + i) * THREADS + threadIdx.x;
    if (at < n) sum += x[at];
  }
  part[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}

#define RIGHT(call) if (cudaError_t e = (call)) return std::fprintf(stderr, "%s\n", cudaGetErrorString(e)), 1

int main() {
  const int n = 1 << 24, blocks = (n + THREADS * EACH - 1) / (THREADS * EACH), readings = 20;
  std::vector<float> host(n, 0.5f), parts(blocks);
  float *x, *sums;
  cudaEvent_t start, stop;
  RIGHT(cudaMalloc(&x, n * sizeof(float)));
  RIGHT(cudaMalloc(&sums, blocks * sizeof(float)));
  RIGHT(cudaMemcpy(x, host.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  RIGHT(cudaEventCreate(&start));
  RIGHT(cudaEventCreate(&stop));
  for (int i = 0; i <= readings; ++i) {
    float ms;
    RIGHT(cudaEventRecord(start));
    reduce<<<blocks, THREADS>>>(x, sums, n);
    RIGHT(cudaEventRecord(stop));
    RIGHT(cudaEventSynchronize(stop));
    RIGHT(cudaEventElapsedTime(&ms, start, stop));
    if (i > 0) std::fprintf(stderr, "took %.6f ms\n", ms); // the first loads the kernel
  }
  RIGHT(cudaMemcpy(parts.data(), sums, blocks * sizeof(float), cudaMemcpyDeviceToHost));
  double total = 0;
  for (float part : parts) total += part;
  std::printf("sum %.6e\n", total);
  return 0;
}
