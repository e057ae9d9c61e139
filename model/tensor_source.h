// tensor_source.h: where a tensor's bytes come from: a checkpoint, or a generator of random weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "base/status.h"
#include "model/spec.h"
#include "model/weights.h"

namespace guildhall {

enum class SourceType : uint8_t { f32, bf16, f16, e4m3 };
constexpr int64_t source_type_bytes(SourceType type) {
  return type == SourceType::f32 ? 4 : type == SourceType::e4m3 ? 1 : 2;
}

// What a made-up tensor holds: matrices random (`plain` ones are never of fp8), norms one, biases zero,
// scales of fp8 blocks what makes codes as large as other weights.
enum class DummyFill : uint8_t { random, plain, ones, zeros, scales };

struct SourceTensor {
  SourceType type = SourceType::f32;
  size_t id = 0;  // the source's own
};

// One owner thread.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Errors name the tensor: absent, of another shape, of a dtype that is not a float's, of fp8 though
  // config.json names none.
  virtual Result<SourceTensor> find(std::string_view name, std::span<const int64_t> shape,
                                    DummyFill fill) = 0;
  // Bytes [offset, offset + out.size()) of the tensor, as it is stored.
  virtual Result<void> read(const SourceTensor& tensor, int64_t offset, std::span<std::byte> out) = 0;
};

Result<std::unique_ptr<TensorSource>> open_tensor_source(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, LoadMode mode);

}  // namespace guildhall
