// weights.h: a model's weights as typed views, and their loading. Of an fp8 checkpoint (F8_E4M3 tensors with
// NAME_scale_inv; DeepSeek-V3 Technical Report, 3.3) linear layers stay codes and scales; kv_b is
// dequantised. The router holds DenseWeights (everything but the routed experts); an expert worker holds an
// ExpertStore with the experts it was given.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "base/status.h"
#include "kernels/device_memory.h"
#include "kernels/dtype.h"
#include "kernels/expert_ffn.h"
#include "model/expert_layout.h"
#include "model/shard.h"
#include "model/spec.h"

namespace guildhall {

// Loading progress, written by the loading thread, read by any.
struct LoadProgress {
  std::atomic<int64_t> bytes_done{0}, bytes_total{0};
  std::atomic<bool> cancel{false};  // set by any thread; loading ends with Code::cancelled
};

enum class LoadMode {
  checkpoint,  // from safetensors
  dummy,       // random weights of the right shapes from config.json alone, for benchmarks
};

class LoadPlan;  // load_plan.h

struct GqaWeights {
  WeightView q, k, v, o;                                  // [H*D,hid] [KV*D,hid] [KV*D,hid] [hid,H*D]
  std::span<const float> q_bias, k_bias, v_bias, o_bias;  // empty: none
  std::span<const float> q_norm, k_norm;                  // [D]; empty: none
};

struct MlaWeights {
  WeightView q;                                 // [H(dn+dr),hid]; empty when q_a is used
  WeightView q_a, q_b;                          // [q_lora,hid] [H(dn+dr),q_lora]
  std::span<const float> q_a_norm, q_a_bias;    // [q_lora]
  WeightView kv_a;                              // [r+dr,hid]
  std::span<const float> kv_a_norm, kv_a_bias;  // [r] [r+dr]
  WeightView k_up_hrn;                          // absorbed W_UKᵀ: H blocks of [r,dn], transposed at load
  WeightView v_up_hdr;                          // W_UV: H blocks of [dv,r]
  WeightView o;                                 // [hid,H*dv]
  std::span<const float> o_bias;
};

struct MlpWeights {
  WeightView gate_up;  // [2F,hid]: gate rows, then up rows
  WeightView down;     // [hid,F]
};

struct MoeWeights {
  WeightView gate_eh;                  // [E,hid], always f32
  std::span<const float> gate_bias_e;  // [E]; empty: none
  std::optional<MlpWeights> shared;
};

struct LayerWeights {
  std::span<const float> input_norm, post_attention_norm;  // [hid]
  std::variant<GqaWeights, MlaWeights> attention;
  std::variant<MlpWeights, MoeWeights> mlp;
};

// Everything the router needs, or one rank of it, in a device's memory. Immutable after loading; any thread
// may read.
class DenseWeights {
 public:
  static Result<std::unique_ptr<DenseWeights>> load(const std::filesystem::path& dir, const ModelSpec& spec,
                                                    LoadMode mode, LoadProgress& progress,
                                                    DeviceMemory& device = host_memory());
  // What rank shard.rank holds; only that is read. The gate and the biases that are added after a sum over
  // ranks are rank 0's.
  static Result<std::unique_ptr<DenseWeights>> load(const std::filesystem::path& dir, const ModelSpec& spec,
                                                    const ModelShard& shard, LoadMode mode,
                                                    LoadProgress& progress, DeviceMemory& device);
  // Bytes that load() would take, from the files' headers.
  static Result<int64_t> bytes_needed(const std::filesystem::path& dir, const ModelSpec& spec,
                                      const ModelShard& shard, LoadMode mode,
                                      DeviceMemory& device = host_memory());
  ~DenseWeights();
  WeightView embed_vh;                // [V,hid], of a shard its rows
  WeightView lm_head_vh;              // == embed_vh when tied
  std::span<const float> final_norm;  // [hid]
  std::vector<LayerWeights> layers;
  int64_t bytes() const;

 private:
  DenseWeights();
  Result<void> plan(LoadPlan& plan, const ModelSpec& spec, const ModelShard& shard);
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

// Experts loaded together, in a device's memory, each in a block of its own: layer x expert -> weights, or
// none. Immutable after loading; any thread may read.
class ExpertStore {
 public:
  // experts_of_layer[layer] lists the expert indices to load, sorted; layers without experts are empty.
  static Result<std::unique_ptr<ExpertStore>> load(const std::filesystem::path& dir, const ModelSpec& spec,
                                                   LoadMode mode,
                                                   const std::vector<std::vector<int32_t>>& experts_of_layer,
                                                   LoadProgress& progress,
                                                   DeviceMemory& device = host_memory());
  // nullptr: not held here.
  const ExpertWeightView* find(int64_t layer, int64_t expert) const;
  // The same, to be kept beyond the store.
  ExpertPtr share(int64_t layer, int64_t expert) const;
  int64_t bytes() const { return bytes_; }
  int64_t num_experts() const { return num_experts_; }  // over all layers

 private:
  ExpertStore() = default;
  std::vector<std::vector<ExpertPtr>> expert_le_;  // [L][E]; no experts: [L][0]
  int64_t bytes_ = 0, num_experts_ = 0;
};

}  // namespace guildhall
