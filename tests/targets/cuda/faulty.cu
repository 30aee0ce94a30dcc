// y = a x, right and in every way that a kernel can fail.
extern "C" __global__ void axpy(float* y, const float* x, float a, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = a * x[i];
}

extern "C" __global__ void wrong(float* y, const float* x, float a, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = a * x[i] + 1;
}

extern "C" __global__ void illegal(float* y, const float*, float a, int) {
  y[(1LL << 44) + threadIdx.x] = a;  // 64 TiB further on
}

extern "C" __global__ void endless(float* y, const float*, float, int n) {
  volatile float* seen = y;
  while (n > 0) n += seen[0] == 1 ? 0 : 0;
}
