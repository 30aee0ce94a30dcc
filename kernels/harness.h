// What a program under test must provide, and nothing more: the talking is done by harness.cpp.
//
// A kernel is a class derived from harness::Kernel and one function that makes it:
//
//     struct Gemm : harness::Kernel {
//       explicit Gemm(const harness::Options& options);         // load weights, make inputs; reported as load_s
//       harness::Check verify() override;                       // run once, compare with the reference
//       void run(harness::Reading& reading) override;           // ONE inference (or one scenario): what is timed
//     };
//     std::unique_ptr<harness::Kernel> harness::make(const harness::Options& options) {
//       return std::make_unique<Gemm>(options);
//     }
//
// The harness is compiled once, apart and always with the same flags: a knob of the search touches the kernel's
// own translation unit only, and the compile time of a trial is the compile time of the kernel.
//
// Protocol. On start the program prints  {"ready":{"load_s":0.01,"facts":{...}}}  and then answers each line of stdin:
//     verify   ->  {"check":{"errors":{"max_rel_error":1e-7},"tolerances":{"max_rel_error":1e-4},"quality":{"perplexity":3.2}}}
//     run 10   ->  {"samples":{"latency_s":[... 10 numbers],"cpu_time_s":[...],"throughput_ips":[...],"peak_memory_bytes":[n]}}
//     quit     ->  exit 0 (so does the end of stdin)
// A failure prints  {"error":{"reason":"memory|crash|rejected","message":"..."}}  and ends the program with status 3.
// stdout carries the protocol and nothing else; a kernel may write what it likes to stderr.
// Numbers that are not finite are printed as null: the search takes a null error for a wrong answer.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>

namespace harness {

using Facts = std::map<std::string, double>;

// An input that this program cannot work with; the trial fails as `rejected`.
struct Rejected : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Check {
  Facts errors;      // how far the answer lies from the reference
  Facts tolerances;  // the most each error may be
  Facts quality;     // what the model's answers are worth: perplexity, accuracy
};

// What one run() adds to the harness's own wall and CPU time: it may be a scenario of several batches of inferences.
// latency_s is the time of one batch, throughput_ips counts inferences.
struct Reading {
  double inferences = 1;  // in a batch
  double batches = 1;     // in a run()
  Facts metrics;          // further metrics of this reading: tokens_per_s, ttft_s, ...
};

// Run-time options: --name=value words. One that no constructor asked for ends the program with an error,
// so that a misspelt knob can't pass unnoticed.
class Options {
 public:
  Options(int argc, char** argv);
  std::string text(const std::string& name, const std::string& otherwise) const;
  long integer(const std::string& name, long otherwise, long low, long high) const;
  void refuse_unknown() const;

 private:
  std::map<std::string, std::string> values_;
  mutable std::map<std::string, bool> asked_;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  // What is known without running. `flop` and `bytes_moved` of one run() give achieved_flop_per_s and
  // achieved_bytes_per_s beside every reading.
  virtual Facts facts() const { return {}; }
  virtual Check verify() = 0;
  virtual void run(Reading& reading) = 0;
};

std::unique_ptr<Kernel> make(const Options& options);  // each kernel defines it

double now_s();  // CLOCK_MONOTONIC, for kernels that time their parts

// The largest |actual - expected| relative to the largest |expected|; NaN if any actual is not finite. It looks at bit
// patterns, so -ffast-math, under which a compiler may take every number for finite, can't hide a NaN.
double max_rel_error(const float* actual, const float* expected, std::size_t count);

}  // namespace harness
