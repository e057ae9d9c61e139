// host_waits_test.cc: in a step, the host waits for the device where rows leave for the experts and where
// tokens come, and nowhere else. Three count it: the emulated runtime by the calls it gets, the backend by
// what it says it waits for, and the trace.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>

#include "base/trace.h"
#include "kernels/cpu_ops.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/graphs.h"
#include "kernels/cuda/host_wait.h"
#include "kernels/cuda/memory.h"
#include "tests/emulation/emulator.h"
#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct Waits {
  uint64_t of_runtime = 0, of_backend = 0;
  bool operator==(const Waits&) const = default;
};

// The names of the spans that one thread recorded, in the order in which they ended.
std::vector<std::string> span_names(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<std::string> names;
  const std::regex span(R"re("ph":"X","name":"([^"]+)")re");
  std::smatch found;
  for (std::string line; std::getline(in, line);)
    if (std::regex_search(line, found, span)) names.push_back(found[1]);
  return names;
}

class HostWaits : public ::testing::TestWithParam<std::string> {
 protected:
  HostWaits() {
    trace_file_ = std::filesystem::temp_directory_path() /
                  ("host_waits_" + std::to_string(getpid()) + "_" + GetParam() + ".json");
  }
  ~HostWaits() override {
    stop_trace();
    std::filesystem::remove(trace_file_);
  }

  // The router's layers on the device, its workers on the CPU, all of them on the engine's thread.
  std::unique_ptr<LocalEngine> make_engine(RowCodecs codecs, MicroBatches micro_batches) const {
    auto is_first = std::make_shared<bool>(true);
    return std::make_unique<LocalEngine>(golden_.path,
                                         LocalEngineOptions{.num_workers = 2,
                                                            .max_batched_tokens = 16,
                                                            .block_size = 4,
                                                            .kv_tokens = 256,
                                                            .prefix_caching = false,
                                                            .codecs = codecs,
                                                            .micro_batches = micro_batches,
                                                            .make_ops = [is_first]() -> std::unique_ptr<Ops> {
                                                              return std::exchange(*is_first, false)
                                                                         ? make_cuda_ops(0, {}).value()
                                                                         : make_cpu_ops({});
                                                            }});
  }
  int64_t num_moe_layers(const LocalEngine& engine) const {
    const auto& is_moe_layer = const_cast<LocalEngine&>(engine).spec().is_moe_layer;
    return std::count(is_moe_layer.begin(), is_moe_layer.end(), true);
  }
  // A prompt of 6 tokens in one step, then num_tokens - 1 decode steps.
  void generate(LocalEngine& engine, int32_t num_tokens) const {
    EngineRequest request;
    request.prompt_ids.assign(golden_.prompts.back().ids.begin(), golden_.prompts.back().ids.begin() + 6);
    request.sampling.temperature = 0;
    request.max_tokens = num_tokens;
    const Completion done = engine.run(std::move(request));
    ASSERT_FALSE(done.error.has_value()) << done.error->message;
    ASSERT_EQ(done.tokens.size(), static_cast<size_t>(num_tokens));
  }
  Waits waits_of(LocalEngine& engine, int32_t num_tokens) const {
    const Waits before = so_far();
    generate(engine, num_tokens);
    const Waits after = so_far();
    return {after.of_runtime - before.of_runtime, after.of_backend - before.of_backend};
  }
  static Waits so_far() { return {emulation::num_host_waits(), HostWait::num_so_far()}; }

  const GoldenCase golden_ = read_golden_case(GetParam());
  std::filesystem::path trace_file_;
};

constexpr RowCodecs kPlain{}, kEncoded{Codec::bf16, Codec::fp8};

TEST_P(HostWaits, AreOnePerMoeLayerAndOneForTheTokens) {
  for (const RowCodecs codecs : {kPlain, kEncoded}) {
    const auto engine = make_engine(codecs, MicroBatches::one);
    const auto per_step = static_cast<uint64_t>(num_moe_layers(*engine)) + 1;
    generate(*engine, 5);  // buffers grow, and a decode step is recorded
    for (const int32_t num_tokens : {1, 5, 9}) {
      const uint64_t want = static_cast<uint64_t>(num_tokens) * per_step;
      EXPECT_EQ(waits_of(*engine, num_tokens), (Waits{want, want})) << num_tokens << " steps";
    }
  }
}

TEST_P(HostWaits, AreOnePerMicroBatchThen) {
  const auto engine = make_engine(kEncoded, MicroBatches::two);
  const auto layers = static_cast<uint64_t>(num_moe_layers(*engine));
  generate(*engine, 5);
  const uint64_t prompt = 2 * layers + 1, decode = 3 * (layers + 1);  // a step of one token is not divided
  EXPECT_EQ(waits_of(*engine, 4), (Waits{prompt + decode, prompt + decode}));
}

TEST_P(HostWaits, AreNamedInTheTraceAndSharedExpertsAreToldBefore) {
  constexpr int32_t kSteps = 4;
  const auto engine = make_engine(kEncoded, MicroBatches::one);
  const auto layers = static_cast<size_t>(num_moe_layers(*engine));
  generate(*engine, 5);
  start_trace({.file = trace_file_, .process = "router", .max_events = 1 << 14});
  generate(*engine, kSteps);
  engine->stop();
  ASSERT_FALSE(write_trace().has_error());
  std::map<std::string, size_t> waits;
  std::vector<std::string> order;
  const std::vector<std::string> names = span_names(trace_file_);
  for (const std::string& name : names) {
    if (name.starts_with("wait ")) ++waits[name];
    if (name == "shared_experts" || name == "wait rows") order.push_back(name);
  }
  std::map<std::string, size_t> want = {{"wait tokens", kSteps}};
  if (layers > 0) want["wait rows"] = kSteps * layers;
  EXPECT_EQ(waits, want);
  if (std::ranges::find(names, "shared_experts") == names.end()) return;  // this model has none
  ASSERT_EQ(order.size(), 2 * kSteps * layers);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i % 2 == 0 ? "shared_experts" : "wait rows");
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, HostWaits, ::testing::ValuesIn(golden_case_names()),
                         [](const auto& info) { return info.param; });

// ---- while a graph is recorded

class RecordingDeath : public testing::Test {
 protected:
  RecordingDeath() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  std::shared_ptr<CudaDevice> device_ = CudaDevice::open(0).value();
  CudaMemory memory_{device_};
  CudaGraphs graphs_{device_->compute()};
};

TEST_F(RecordingDeath, ScratchMayNotGrow) {
  const std::unique_ptr<Blas> blas = Blas::create(memory_, device_->compute(), 256).value();
  const auto in_the_second_run = [&](int64_t first, int64_t second) {
    int64_t bytes = first;
    graphs_.replay({1}, [&] { blas->scratch(bytes); });
    bytes = second;
    graphs_.replay({1}, [&] { blas->scratch(bytes); });
  };
  in_the_second_run(4096, 4096);  // the run that is not recorded made room
  graphs_.clear();
  EXPECT_DEATH(in_the_second_run(4096, 8192), "Blas::scratch grows: while a graph is recorded");
}

TEST_F(RecordingDeath, TheHostMayNotWait) {
  CudaEvent event;
  const auto body = [&] { event.wait("wait rows"); };
  graphs_.replay({1}, body);
  EXPECT_DEATH(graphs_.replay({1}, body), "wait rows: while a graph is recorded");
}

}  // namespace
}  // namespace guildhall
