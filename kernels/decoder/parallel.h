// Work that is not timed shared among all processors, where there is enough of it. Threads of the standard library, not
// OpenMP's, which a point's own flags may leave out of the program, and which wait for each other at every loop.
#pragma once

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace decoder {

constexpr long WORTH_A_THREAD = 1 << 18;  // operations; to start a thread takes some ten microseconds

// body(i) for every i below `count`, each of about `work` operations; none may depend on another. Throws what one threw.
template <class Body>
void in_parallel(long count, long work, const Body& body) {
  const long most = std::max(1L, static_cast<long>(std::thread::hardware_concurrency()));
  const long threads = std::clamp(count * work / WORTH_A_THREAD, 1L, std::min(most, std::max(1L, count)));
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(threads));
  const auto share = [&](long nth) {
    try {
      for (long i = count * nth / threads; i < count * (nth + 1) / threads; ++i) body(i);
    } catch (...) {
      thrown[static_cast<std::size_t>(nth)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (long nth = 1; nth < threads; ++nth) others.emplace_back(share, nth);
  share(0);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : thrown)
    if (error) std::rethrow_exception(error);
}

}  // namespace decoder
