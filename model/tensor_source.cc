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
  CheckpointSource(std::unique_ptr<Checkpoint> checkpoint, bool fp8_weights)
      : checkpoint_(std::move(checkpoint)), fp8_weights_(fp8_weights) {}

  Result<SourceTensor> find(std::string_view name, std::span<const int64_t> shape, DummyFill) override {
    GH_ASSIGN(const TensorRef ref, checkpoint_->find(name, shape));
    SourceTensor tensor{SourceType::f32, refs_.size()};
    const std::string& dtype = ref.info->dtype;
    if (dtype == "BF16") {
      tensor.type = SourceType::bf16;
    } else if (dtype == "F16") {
      tensor.type = SourceType::f16;
    } else if (dtype == "F8_E4M3") {
      if (!fp8_weights_)
        return Status{Code::unsupported,
                      fmt::format("{}: tensor {} has dtype F8_E4M3, but config.json has no "
                                  "quantization_config with quant_method fp8",
                                  ref.file->path(), name)};
      tensor.type = SourceType::e4m3;
    } else if (dtype != "F32") {
      return Status{Code::unsupported,
                    fmt::format("{}: tensor {} has dtype {}, but weights must be BF16, F16, F32 or F8_E4M3",
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
  bool fp8_weights_;
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
// weights. Codes of fp8 are in [2^-1, 2), their scales 2^-6.
class DummySource final : public TensorSource {
 public:
  explicit DummySource(const ModelSpec& spec)
      : plain_type_(spec.weight_dtype == DType::f32 ? SourceType::f32 : SourceType::bf16),
        matrix_type_(spec.fp8_weights ? SourceType::e4m3 : plain_type_) {}

  Result<SourceTensor> find(std::string_view name, std::span<const int64_t>, DummyFill fill) override {
    uint64_t seed = 0xcbf29ce484222325ULL;  // FNV-1a of the name
    for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    tensors_.push_back({split_mix(seed), fill});
    const SourceType type = fill == DummyFill::random  ? matrix_type_
                            : fill == DummyFill::plain ? plain_type_
                                                       : SourceType::f32;
    return SourceTensor{type, tensors_.size() - 1};
  }

  Result<void> read(const SourceTensor& tensor, int64_t offset, std::span<std::byte> out) override {
    const Tensor& made = tensors_[tensor.id];
    if (made.fill == DummyFill::random || made.fill == DummyFill::plain) {
      const WordBits bits = bits_of(tensor.type);
      fill_words(offset, out, [&](uint64_t word) {
        return (split_mix(made.seed + word * 0x9e3779b97f4a7c15ULL) & bits.random) | bits.set;
      });
    } else {
      const uint64_t word = made.fill == DummyFill::ones     ? 0x3f8000003f800000ULL
                            : made.fill == DummyFill::scales ? 0x3c8000003c800000ULL
                                                             : 0;
      fill_words(offset, out, [&](uint64_t) { return word; });
    }
    return {};
  }

 private:
  struct Tensor {
    uint64_t seed;
    DummyFill fill;
  };

  // Of a word of weights: which bits are random, and which are set.
  struct WordBits {
    uint64_t random, set;
  };
  static WordBits bits_of(SourceType type) {
    if (type == SourceType::f32) return {0x80ffffff80ffffffULL, 0x3c0000003c000000ULL};
    if (type == SourceType::e4m3) return {0x8f8f8f8f8f8f8f8fULL, 0x3030303030303030ULL};
    return {0x80ff80ff80ff80ffULL, 0x3c003c003c003c00ULL};
  }

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

  SourceType plain_type_, matrix_type_;
  std::vector<Tensor> tensors_;
};

}  // namespace

Result<std::unique_ptr<TensorSource>> open_tensor_source(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, LoadMode mode) {
  if (mode == LoadMode::dummy) return std::unique_ptr<TensorSource>(new DummySource(spec));
  GH_ASSIGN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::open(dir));
  return std::unique_ptr<TensorSource>(new CheckpointSource(std::move(checkpoint), spec.fp8_weights));
}

}  // namespace guildhall
