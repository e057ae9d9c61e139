#include "model/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "model/checkpoint.h"

namespace guildhall {
namespace {

class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(std::unique_ptr<Checkpoint> checkpoint) : checkpoint_(std::move(checkpoint)) {}

  Result<SourceTensor> find(std::string_view name, std::span<const int64_t> shape, DummyFill) override {
    GH_ASSIGN(const TensorRef ref, checkpoint_->find(name, shape));
    SourceTensor tensor{SourceType::f32, refs_.size()};
    const std::string& dtype = ref.info->dtype;
    if (dtype == "BF16") {
      tensor.type = SourceType::bf16;
    } else if (dtype == "F16") {
      tensor.type = SourceType::f16;
    } else if (dtype != "F32") {
      return Status{Code::unsupported,
                    fmt::format("{}: tensor {} has dtype {}, but weights must be BF16, F16 or F32",
                                ref.file->path(), name, dtype)};
    }
    refs_.push_back(ref);
    return tensor;
  }

  Result<void> read(const SourceTensor& tensor, int64_t offset, std::span<std::byte> out) override {
    const TensorRef& ref = refs_[tensor.id];
    return ref.file->read(ref.name, *ref.info, offset, out);
  }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<TensorRef> refs_;
};

// SplitMix64 (Steele et al. 2014): the state is a counter, so any part of a tensor can be made on its own.
uint64_t split_mix(uint64_t state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
  return state ^ (state >> 31);
}

// Random weights of magnitude in [2^-7, 2^-5), either sign; standard deviation 0.019, near the usual initial
// one. Only the sign and the lowest exponent and mantissa bits are random, so a word of bits is a word of
// weights.
class DummySource final : public TensorSource {
 public:
  explicit DummySource(DType matrix_dtype)
      : matrix_type_(matrix_dtype == DType::f32 ? SourceType::f32 : SourceType::bf16) {}

  Result<SourceTensor> find(std::string_view name, std::span<const int64_t>, DummyFill fill) override {
    uint64_t seed = 0xcbf29ce484222325ULL;  // FNV-1a of the name
    for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    tensors_.push_back({split_mix(seed), fill});
    return SourceTensor{fill == DummyFill::random ? matrix_type_ : SourceType::f32, tensors_.size() - 1};
  }

  Result<void> read(const SourceTensor& tensor, int64_t offset, std::span<std::byte> out) override {
    const Tensor& made = tensors_[tensor.id];
    if (made.fill == DummyFill::random) {
      const bool f32 = tensor.type == SourceType::f32;
      fill_words(offset, out, [&](uint64_t word) {
        const uint64_t bits = split_mix(made.seed + word * 0x9e3779b97f4a7c15ULL);
        return f32 ? (bits & 0x80ffffff80ffffffULL) | 0x3c0000003c000000ULL
                   : (bits & 0x80ff80ff80ff80ffULL) | 0x3c003c003c003c00ULL;
      });
    } else {
      const uint64_t word = made.fill == DummyFill::ones ? 0x3f8000003f800000ULL : 0;
      fill_words(offset, out, [&](uint64_t) { return word; });
    }
    return {};
  }

 private:
  struct Tensor {
    uint64_t seed;
    DummyFill fill;
  };

  // Writes bytes [offset, offset + out.size()) of the sequence of 8-byte words that `word_at` makes.
  template <class WordAt>
  static void fill_words(int64_t offset, std::span<std::byte> out, WordAt word_at) {
    size_t done = 0;
    while (done < out.size()) {
      const size_t at = static_cast<size_t>(offset) + done;
      const size_t skip = at % 8;
      const uint64_t word = word_at(at / 8);
      const size_t take = std::min(8 - skip, out.size() - done);
      if (take == 8) {
        std::memcpy(out.data() + done, &word, 8);
      } else {
        std::memcpy(out.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, take);
      }
      done += take;
    }
  }

  SourceType matrix_type_;
  std::vector<Tensor> tensors_;
};

}  // namespace

Result<std::unique_ptr<TensorSource>> open_tensor_source(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, LoadMode mode) {
  if (mode == LoadMode::dummy) return std::unique_ptr<TensorSource>(new DummySource(spec.weight_dtype));
  GH_ASSIGN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::open(dir));
  return std::unique_ptr<TensorSource>(new CheckpointSource(std::move(checkpoint)));
}

}  // namespace guildhall
