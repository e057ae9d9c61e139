#include "tests/bench/bandwidth_probe.h"
#include "tests/bench/decode_device.h"

namespace guildhall {
namespace {

class Cpu : public DecodeDevice {
 public:
  explicit Cpu(int threads) : team_({.num_threads = threads}), buffer_(int64_t{1} << 30, team_) {}
  std::string name() const override { return "the CPU"; }
  std::function<std::unique_ptr<Ops>()> ops_maker() const override { return {}; }
  double bandwidth() override { return read_bandwidth(team_, buffer_); }
  const char* bandwidth_of() const override { return "read"; }

 private:
  Team team_;
  HugeBuffer buffer_;
};

}  // namespace

std::unique_ptr<DecodeDevice> make_decode_device(int threads) { return std::make_unique<Cpu>(threads); }

std::filesystem::path default_decode_model() {
  return std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/bench/models/q3moe";
}

}  // namespace guildhall
