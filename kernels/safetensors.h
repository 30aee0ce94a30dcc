// Reads model files in the safetensors format: a JSON header that names tensors, then their bytes (mapped, not copied).
//
// The file is 8 bytes of header length (little endian), the header, the data. The header maps a name to
// {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}; "__metadata__" maps names to strings.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace safetensors {

struct Tensor {
  std::string dtype;  // F32, F16 or BF16
  std::vector<long> shape;
  const unsigned char* data = nullptr;
  std::size_t count = 0;  // elements
};

class File {
 public:
  explicit File(const std::string& path);  // throws harness::Rejected where the file is not such a file
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const Tensor& tensor(const std::string& name, const std::vector<long>& shape) const;  // throws Rejected
  std::vector<float> floats(const std::string& name, const std::vector<long>& shape) const;
  long integer(const std::string& name, long low, long high) const;  // of the metadata; throws Rejected
  double number(const std::string& name) const;

 private:
  const std::string& text(const std::string& name) const;

  std::string path_;
  void* mapped_ = nullptr;
  std::size_t size_ = 0;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace safetensors
