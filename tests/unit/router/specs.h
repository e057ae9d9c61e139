// specs.h: the smallest model specs of each attention kind, for tests that need shapes only.
#pragma once

#include "model/spec.h"

namespace guildhall {

inline ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.hidden = 16, spec.num_layers = 2, spec.vocab_size = 32, spec.max_position = 64, spec.dense_width = 24;
  spec.moe = {.num_experts = 6, .top_k = 2, .expert_width = 8};
  spec.is_moe_layer = {false, true};
  return spec;
}

inline ModelSpec tiny_gqa_spec() {
  ModelSpec spec = tiny_spec();
  spec.attention = GqaSpec{.num_heads = 4, .num_kv_heads = 2, .head_dim = 8, .scale = 0.35f};
  spec.rope.dim = 8;
  return spec;
}

inline ModelSpec tiny_mla_spec() {
  ModelSpec spec = tiny_spec();
  spec.attention = MlaSpec{.num_heads = 2,
                           .kv_lora_rank = 8,
                           .qk_nope_head_dim = 6,
                           .qk_rope_head_dim = 4,
                           .v_head_dim = 5,
                           .scale = 0.3f};
  spec.rope.dim = 4;
  return spec;
}

}  // namespace guildhall
