// Compiled once, apart from the knobs. Every malformed file is harness::Rejected, never a crash.
#include "safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "harness.h"

namespace safetensors {
namespace {

constexpr std::size_t MAX_HEADER = 100u << 20;
constexpr int MAX_DEPTH = 8;

// A JSON value, as far as headers need it.
struct Json {
  enum class Kind { object, array, string, number } kind = Kind::number;
  std::map<std::string, Json> members;
  std::vector<Json> items;
  std::string text;  // of a string; of a number as it is written
};

class Parser {
 public:
  Parser(const char* begin, const char* end) : at_(begin), end_(end) {}

  Json whole() {
    Json value = any(0);
    blanks();
    if (at_ != end_) fail("text after the header's object");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw harness::Rejected("its header is not JSON: " + what); }
  void blanks() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  char peek() {
    blanks();
    if (at_ == end_) fail("it ends too early");
    return *at_;
  }
  void expect(char c) {
    if (peek() != c) fail(std::string("'") + c + "' is missing");
    ++at_;
  }

  Json any(int depth) {
    if (depth > MAX_DEPTH) fail("nested too deeply");
    Json value;
    switch (peek()) {
      case '{':
        value.kind = Json::Kind::object;
        ++at_;
        if (peek() != '}') {
          do {
            peek();
            const std::string name = string();
            expect(':');
            if (!value.members.emplace(name, any(depth + 1)).second) fail("'" + name + "' stands there twice");
          } while (more('}'));
        } else {
          ++at_;
        }
        return value;
      case '[':
        value.kind = Json::Kind::array;
        ++at_;
        if (peek() != ']') {
          do value.items.push_back(any(depth + 1));
          while (more(']'));
        } else {
          ++at_;
        }
        return value;
      case '"':
        value.kind = Json::Kind::string;
        value.text = string();
        return value;
      default:
        while (at_ != end_ && std::strchr("+-.0123456789eE", *at_) && *at_) value.text += *at_++;
        if (value.text.empty()) fail("a value is missing");
        return value;
    }
  }
  bool more(char closing) {  // after a member: another one follows, or the end
    if (peek() == ',') return ++at_, true;
    expect(closing);
    return false;
  }
  std::string string() {
    expect('"');
    std::string out;
    for (; at_ != end_ && *at_ != '"'; ++at_) {
      if (*at_ == '\\') {
        if (++at_ == end_) break;
        if (!std::strchr("\"\\/", *at_)) fail("an escape that headers don't need");
      }
      out += *at_;
    }
    if (at_ == end_) fail("a string does not end");
    ++at_;
    return out;
  }

  const char* at_;
  const char* end_;
};

long whole_number(const Json& value, const std::string& where) {
  char* end = nullptr;
  const long number = std::strtol(value.text.c_str(), &end, 10);
  if (value.kind != Json::Kind::number || *end != '\0' || number < 0)
    throw harness::Rejected(where + " has '" + value.text + "' where a whole number is due");
  return number;
}

const Json& member(const Json& object, const char* name, const std::string& where) {
  const auto found = object.members.find(name);
  if (object.kind != Json::Kind::object || found == object.members.end())
    throw harness::Rejected(where + " has no " + name);
  return found->second;
}

std::size_t width(const std::string& dtype, const std::string& where) {
  if (dtype == "F32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  throw harness::Rejected(where + " has the type " + dtype + "; F32, F16 and BF16 can be read");
}

Tensor tensor_of(const std::string& name, const Json& entry, const unsigned char* data, std::size_t size) {
  const std::string where = "the tensor " + name;
  Tensor tensor;
  tensor.dtype = member(entry, "dtype", where).text;
  tensor.count = 1;
  for (const Json& item : member(entry, "shape", where).items) {
    const long length = whole_number(item, where);
    if (length > 0 && tensor.count > (SIZE_MAX >> 3) / static_cast<std::size_t>(length))
      throw harness::Rejected(where + " is larger than memory");
    tensor.shape.push_back(length);
    tensor.count *= static_cast<std::size_t>(length);
  }
  const auto& offsets = member(entry, "data_offsets", where).items;
  if (offsets.size() != 2) throw harness::Rejected(where + " needs two data_offsets");
  const auto begin = static_cast<std::size_t>(whole_number(offsets[0], where));
  const auto end = static_cast<std::size_t>(whole_number(offsets[1], where));
  if (begin > end || end > size || end - begin != tensor.count * width(tensor.dtype, where))
    throw harness::Rejected(where + " lies outside the file or is not as long as its shape");
  tensor.data = data + begin;
  return tensor;
}

// No byte may belong to two tensors: the format forbids it, and a file that does so was written wrongly.
void refuse_overlaps(const std::map<std::string, Tensor>& tensors) {
  std::vector<std::pair<const unsigned char*, const unsigned char*>> spans;
  for (const auto& [name, tensor] : tensors)
    if (tensor.count) spans.emplace_back(tensor.data, tensor.data + tensor.count * width(tensor.dtype, name));
  std::sort(spans.begin(), spans.end());
  for (std::size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first < spans[i - 1].second) throw harness::Rejected("two of its tensors overlap");
}

float half_to_float(std::uint16_t half) {  // IEEE 754 binary16
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16, exponent = (half >> 10) & 31;
  std::uint32_t fraction = half & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero or subnormal: fraction * 2^-24
    float value = static_cast<float>(fraction) / 16777216.0f;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

}  // namespace

File::File(const std::string& path) : path_(path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat about {};
  if (file < 0 || fstat(file, &about) != 0) {
    if (file >= 0) close(file);
    throw harness::Rejected("the model " + path + " can't be read: " + std::strerror(errno));
  }
  size_ = static_cast<std::size_t>(about.st_size);
  if (size_ >= 8) mapped_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (size_ < 8 || mapped_ == MAP_FAILED) throw harness::Rejected("the model " + path + " is no safetensors file");
  try {
    const auto* bytes = static_cast<const unsigned char*>(mapped_);
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | bytes[i];
    if (length > MAX_HEADER || length > size_ - 8) throw harness::Rejected("its header is longer than the file");
    const auto* header = reinterpret_cast<const char*>(bytes) + 8;
    const Json root = Parser(header, header + length).whole();
    if (root.kind != Json::Kind::object) throw harness::Rejected("its header is no object");
    for (const auto& [name, entry] : root.members) {
      if (name != "__metadata__") {
        tensors_[name] = tensor_of(name, entry, bytes + 8 + length, size_ - 8 - length);
        continue;
      }
      for (const auto& [key, value] : entry.members) metadata_[key] = value.text;
    }
    refuse_overlaps(tensors_);
  } catch (const harness::Rejected& error) {
    munmap(mapped_, size_);
    throw harness::Rejected("the model " + path + " can't be used: " + error.what());
  }
}

File::~File() { munmap(mapped_, size_); }

const Tensor& File::tensor(const std::string& name, const std::vector<long>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw harness::Rejected("the model " + path_ + " has no tensor " + name);
  if (found->second.shape != shape)
    throw harness::Rejected("the model " + path_ + ": " + name + " has another shape than its metadata says");
  return found->second;
}

std::vector<float> File::floats(const std::string& name, const std::vector<long>& shape) const {
  const Tensor& from = tensor(name, shape);
  std::vector<float> out(from.count);
  if (from.dtype == "F32") {
    std::memcpy(out.data(), from.data, from.count * sizeof(float));
    return out;
  }
  for (std::size_t i = 0; i < from.count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, from.data + 2 * i, sizeof half);
    if (from.dtype == "F16") {
      out[i] = half_to_float(half);
    } else {
      const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
      std::memcpy(&out[i], &bits, sizeof bits);
    }
  }
  return out;
}

const std::string& File::text(const std::string& name) const {
  const auto found = metadata_.find(name);
  if (found == metadata_.end()) throw harness::Rejected("the model " + path_ + " does not say its " + name);
  return found->second;
}

long File::integer(const std::string& name, long low, long high) const {
  char* end = nullptr;
  const std::string& value = text(name);
  const long number = std::strtol(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || number < low || number > high)
    throw harness::Rejected("the model " + path_ + " says " + name + " = " + value + ", which can't be");
  return number;
}

double File::number(const std::string& name) const {
  char* end = nullptr;
  const std::string& value = text(name);
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0' || !(number > 0) || !std::isfinite(number))
    throw harness::Rejected("the model " + path_ + " says " + name + " = " + value + ", which can't be");
  return number;
}

}  // namespace safetensors
