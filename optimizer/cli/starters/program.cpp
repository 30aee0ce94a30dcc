// A program to begin with: put your own in its place. It sums what it has computed and prints the sum, its answer.
#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  std::vector<float> x(1 << 20);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.001f * static_cast<float>(i % 1000);
  double sum = 0;
  for (int round = 0; round < 4; ++round)
    for (float value : x) sum += std::sqrt(value + 1.0f);
  std::printf("sum %.9e\n", sum);
}
