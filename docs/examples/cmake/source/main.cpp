// Times the softmax of the same matrix ten times, prints the times as JSON, and writes answers to answer.txt.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <vector>

#include "softmax.h"

int main() {
  const int rows = 256, columns = 1024, readings = 10;
  std::vector<float> input(rows * columns), x;
  for (int i = 0; i < rows * columns; ++i) input[i] = std::sin(0.37f * i) * 4;
  std::printf("{\"times_ms\": [");
  for (int i = 0; i < readings; ++i) {
    x = input;
    const auto start = std::chrono::steady_clock::now();
    softmax(x.data(), rows, columns);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    std::printf("%s%.6f", i ? ", " : "", took.count());
  }
  std::printf("]}\n");
  std::FILE* answer = std::fopen("answer.txt", "w");
  if (!answer) return 1;
  for (int i = 0; i < rows * columns; i += 9973) std::fprintf(answer, "%.6e\n", x[i]);
  return std::fclose(answer) == 0 ? 0 : 1;
}
