// How a program under test talks to the search: one process, one line of JSON an answer (see harness.h).
//
// Timing. Fast kernels are repeated inside a reading until it lasts MIN_READING_S. Wall time is CLOCK_MONOTONIC, cpu_time_s is the CPU time of all threads (CLOCK_PROCESS_CPUTIME_ID).
// peak_memory_bytes is the high-water mark of resident memory (VmHWM) since the first run, not since the start:
// what verification needed is given back and forgotten first.
//
// The program ends by itself within about a second when its parent dies: a search that was killed can't stop it.
#include "harness.h"

#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <new>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

namespace harness {

Options::Options(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto equals = word.find('=');
    if (word.rfind("--", 0) != 0 || equals == std::string::npos)
      throw Rejected("expected --name=value, not '" + word + "'");
    values_[word.substr(2, equals - 2)] = word.substr(equals + 1);
  }
}

std::string Options::text(const std::string& name, const std::string& otherwise) const {
  asked_[name] = true;
  const auto found = values_.find(name);
  return found == values_.end() ? otherwise : found->second;
}

long Options::integer(const std::string& name, long otherwise, long low, long high) const {
  const std::string value = text(name, std::to_string(otherwise));
  char* end = nullptr;
  const long number = std::strtol(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || number < low || number > high)
    throw Rejected("--" + name + "=" + value + " is not a whole number from " + std::to_string(low) + " to " +
                   std::to_string(high));
  return number;
}

void Options::refuse_unknown() const {
  for (const auto& [name, value] : values_)
    if (!asked_.count(name)) throw Rejected("unknown option --" + name);
}

namespace {

constexpr double MIN_READING_S = 2e-3;  // a thousand times the clock's own cost
constexpr int MAX_REPEATS = 1 << 20;

using Samples = std::map<std::string, std::vector<double>>;

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double peak_memory_bytes() {  // 0 where /proc does not tell
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return 1024.0 * std::atof(line.c_str() + 6);
  return 0;
}

void forget_peak_memory() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char out[40];
  std::snprintf(out, sizeof out, "%.17g", value);
  return out;
}

std::string object(const Facts& facts) {
  std::string out;
  for (const auto& [name, value] : facts) out += (out.empty() ? "{" : ",") + quoted(name) + ":" + number(value);
  return out.empty() ? "{}" : out + "}";
}

std::string object(const Samples& samples) {
  std::string out;
  for (const auto& [name, values] : samples) {
    out += (out.empty() ? "{" : ",") + quoted(name) + ":[";
    for (std::size_t i = 0; i < values.size(); ++i) out += (i ? "," : "") + number(values[i]);
    out += "]";
  }
  return out.empty() ? "{}" : out + "}";
}

void say(const std::string& line) {
  std::cout << line << "\n" << std::flush;
  if (!std::cout) std::_Exit(0);  // nobody listens any more
}

int fail(const char* reason, const std::string& message) {
  say("{\"error\":{\"reason\":\"" + std::string(reason) + "\",\"message\":" + quoted(message) + "}}");
  return 3;
}

void end_with_parent() {
  const pid_t parent = getppid();
  std::thread([parent] {
    while (getppid() == parent) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::_Exit(0);
  }).detach();
}

struct Timed {
  Reading reading;
  double elapsed_s, cpu_s;
};

Timed timed(Kernel& kernel, int repeats) {
  Timed out{};
  const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = now_s();
  for (int i = 0; i < repeats; ++i) kernel.run(out.reading);
  out.elapsed_s = now_s() - wall;
  out.cpu_s = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  return out;
}

// How many repetitions make a reading last MIN_READING_S, and the reading that showed it: a scenario of seconds is not
// run once more for nothing. (The search throws the first readings away as warm-up.)
std::pair<int, Timed> calibrated(Kernel& kernel) {
  for (int repeats = 1;;) {
    const Timed reading = timed(kernel, repeats);
    const double elapsed_s = std::max(reading.elapsed_s, 1e-7);
    if (elapsed_s >= MIN_READING_S / 2 || repeats == MAX_REPEATS) return {repeats, reading};
    const double wanted = std::min({repeats * MIN_READING_S / elapsed_s, repeats * 16.0, 1.0 * MAX_REPEATS});
    repeats = std::max(repeats + 1, static_cast<int>(wanted));
  }
}

// The readings of one timed run. Where a kernel's facts say how much arithmetic and traffic one run is, the rates too.
void add(Samples& samples, const Timed& timed, int repeats, const Facts& facts) {
  const double run_s = timed.elapsed_s / repeats;
  if (const auto flop = facts.find("flop"); flop != facts.end())
    samples["achieved_flop_per_s"].push_back(flop->second / run_s);
  if (const auto bytes = facts.find("bytes_moved"); bytes != facts.end())
    samples["achieved_bytes_per_s"].push_back(bytes->second / run_s);
  samples["latency_s"].push_back(run_s / timed.reading.batches);
  samples["cpu_time_s"].push_back(timed.cpu_s / repeats / timed.reading.batches);
  samples["throughput_ips"].push_back(timed.reading.inferences * timed.reading.batches / run_s);
  for (const auto& [name, value] : timed.reading.metrics) samples[name].push_back(value);
}

int answer(Kernel& kernel, const Facts& facts) {
  int repeats = 0;  // not calibrated yet
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    long count = 0;
    words >> verb;
    if (verb == "quit") return 0;
    if (verb == "verify") {
      const Check check = kernel.verify();
      say("{\"check\":{\"errors\":" + object(check.errors) + ",\"tolerances\":" + object(check.tolerances) +
          ",\"quality\":" + object(check.quality) + "}}");
    } else if (verb == "run" && words >> count && count > 0) {
      Samples samples;
      if (repeats == 0) {
        forget_peak_memory();
        const auto [found, reading] = calibrated(kernel);
        repeats = found;
        add(samples, reading, repeats, facts);
        --count;
      }
      for (; count > 0; --count) add(samples, timed(kernel, repeats), repeats, facts);
      if (const double peak = peak_memory_bytes(); peak > 0) samples["peak_memory_bytes"] = {peak};
      say("{\"samples\":" + object(samples) + "}");
    } else {
      return fail("crash", "the program was asked '" + line + "'; it knows: verify, run N, quit");
    }
  }
  return 0;
}

int serve(int argc, char** argv) {
  end_with_parent();
  try {
    const double start = now_s();
    const Options options(argc, argv);
    const std::unique_ptr<Kernel> kernel = make(options);
    options.refuse_unknown();
    const Facts facts = kernel->facts();
    say("{\"ready\":{\"load_s\":" + number(now_s() - start) + ",\"facts\":" + object(facts) + "}}");
    return answer(*kernel, facts);
  } catch (const std::bad_alloc&) {
    return fail("memory", "out of memory");
  } catch (const Rejected& error) {
    return fail("rejected", error.what());
  } catch (const std::exception& error) {
    return fail("crash", error.what());
  }
}

}  // namespace

double now_s() { return seconds(CLOCK_MONOTONIC); }

double max_rel_error(const float* actual, const float* expected, std::size_t count) {
  double worst = 0, scale = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(actual[i])) return std::numeric_limits<double>::quiet_NaN();
    worst = std::max(worst, std::fabs(static_cast<double>(actual[i]) - expected[i]));
    scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
  }
  return scale > 0 ? worst / scale : worst;
}

}  // namespace harness

int main(int argc, char** argv) {
  const int status = harness::serve(argc, argv);
  std::cout.flush();
  std::_Exit(status);  // no destructors: nothing of a finished program may hang or crash
}
