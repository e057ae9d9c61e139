#include "model/expert_reader.h"

#include <algorithm>

#include "model/load_plan.h"
#include "model/tensor_source.h"

namespace guildhall {
namespace {

class PacedSource final : public TensorSource {
 public:
  PacedSource(std::unique_ptr<TensorSource> inner, ExpertReader::Pace pace)
      : inner_(std::move(inner)), pace_(std::move(pace)) {}

  Result<SourceTensor> find(std::string_view name, std::span<const int64_t> shape, DummyFill fill) override {
    return inner_->find(name, shape, fill);
  }
  Result<void> read(const SourceTensor& tensor, int64_t offset, std::span<std::byte> out) override {
    while (!out.empty()) {
      const auto piece = out.first(std::min<size_t>(out.size(), ExpertReader::kMaxPieceBytes));
      GH_TRY(pace_(static_cast<int64_t>(piece.size())));
      GH_TRY(inner_->read(tensor, offset, piece));
      offset += static_cast<int64_t>(piece.size());
      out = out.subspan(piece.size());
    }
    return {};
  }

 private:
  const std::unique_ptr<TensorSource> inner_;
  const ExpertReader::Pace pace_;
};

}  // namespace

ExpertReader::ExpertReader(const ModelSpec& spec, DeviceMemory& device, std::unique_ptr<TensorSource> source)
    : spec_(spec), device_(device), source_(std::move(source)) {}

ExpertReader::~ExpertReader() = default;

Result<std::unique_ptr<ExpertReader>> ExpertReader::open(const std::filesystem::path& dir,
                                                         const ModelSpec& spec, LoadMode mode,
                                                         DeviceMemory& device, Pace pace) {
  GH_ASSIGN(std::unique_ptr<TensorSource> source, open_tensor_source(dir, spec, mode));
  return std::unique_ptr<ExpertReader>(
      new ExpertReader(spec, device, std::make_unique<PacedSource>(std::move(source), std::move(pace))));
}

Result<ExpertPtr> ExpertReader::load(int64_t layer, int64_t expert) {
  auto weights = std::make_shared<ExpertWeights>();
  LoadPlan plan(*source_, device_);
  GH_TRY(plan_expert(plan, spec_, layer, expert, &weights->view));
  LoadProgress progress;
  GH_ASSIGN(weights->memory, plan.run(progress));
  return ExpertPtr(std::move(weights));
}

Result<int64_t> ExpertReader::bytes_of(int64_t layer, int64_t expert) {
  ExpertWeightView unused;
  LoadPlan plan(*source_, device_);
  GH_TRY(plan_expert(plan, spec_, layer, expert, &unused));
  return plan.bytes();
}

}  // namespace guildhall
