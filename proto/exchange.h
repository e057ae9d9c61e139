// exchange.h: the data plane's packed headers. Little-endian; layout, bounds and meaning in WIRE.md.
#pragma once

#include <cstdint>

namespace guildhall {

inline constexpr uint32_t kExchangeMagic = 0x31584847;  // "GHX1"
inline constexpr uint16_t kExchangeVersion = 1;

enum class FrameKind : uint16_t {
  dispatch = 1,
  combine = 2,
  failure = 3,
  weights_request = 4,
  weights = 5,
  hint = 6
};

// How a row of hidden states travels. fp8: e4m3 (OCP 8-bit floating point, revision 1.0, format E4M3: largest
// 448, no infinities, NaN 0x7f) with one fp32 scale per kFp8Group elements; kernels/fp8.h says how it rounds.
enum class Codec : uint8_t { f32 = 0, bf16 = 1, fp8 = 2 };
inline constexpr uint32_t kNumCodecs = 3;
inline constexpr uint32_t kFp8Group = 128;
// Of the rows one worker is sent, and of those it returns.
struct RowCodecs {
  Codec dispatch = Codec::f32, combine = Codec::f32;
};

// exact: a row per pair, unweighted. reduced: a row per dispatched row, its pairs' rows weighted and summed.
enum class Combine : uint8_t { exact = 0, reduced = 1 };

// 64 bytes, then num_pairs pairs, then num_rows rows, each section padded to 8 bytes with zeros.
// A failure carries a FailureBody and its message instead, and the frames by which workers give each other
// experts a WeightsRequestBody, or a WeightsBody and bytes.
struct FrameHeader {
  uint32_t magic;              //  0  kExchangeMagic, else drop the link
  uint16_t version;            //  4  newer than ours: refuse
  uint16_t kind;               //  6  FrameKind
  uint64_t generation;         //  8  of the link; a frame of another generation is dropped
  uint64_t step_id;            // 16  pairs answers with what they answer; +1 per round of a router
  uint32_t placement_version;  // 24
  uint16_t layer;              // 28  0-based, < kMaxLayers
  uint16_t micro_batch;        // 30  < kMaxMicroBatches
  uint8_t codec;               // 32  Codec of this frame's rows; failure: 0
  uint8_t combine;             // 33  Combine of this answer; dispatch: the one asked for; failure: 0
  uint8_t answer_codec;        // 34  dispatch: Codec asked for; combine and failure: 0
  uint8_t reserved;            // 35  0
  uint32_t num_rows;           // 36  <= kMaxRows; combine exact: one per pair, <= kMaxPairs; failure: 0
  uint32_t num_pairs;          // 40  <= num_rows * kMaxTopK; combine and failure: 0
  uint32_t hidden;             // 44  <= kMaxHidden, > 0 when there are rows; failure: 0
  uint64_t payload_bytes;      // 48  everything after this header; must match the counts
  uint32_t payload_crc32c;     // 56  0: not computed (the transport already protects it)
  uint32_t reserved2;          // 60  0
};
static_assert(sizeof(FrameHeader) == 64);

// One (row, expert) of a dispatch. Pairs are in row order, a row's pairs in gate order; `row` < num_rows.
// An exact combine returns one row per pair, in the same order.
struct DispatchPair {
  uint32_t row;        //  0
  uint16_t expert;     //  4  routed expert of the layer, < kMaxExperts
  uint16_t gate_rank;  //  6  k in [0, top_k): which choice of its token this is
  float weight;        //  8  gate weight; used by reduced combines
};
static_assert(sizeof(DispatchPair) == 12);

// The payload of a failure frame (worker -> router): why a dispatch could not be served. The message follows,
// padded to 8 bytes.
struct FailureBody {
  uint16_t code;           //  0  WireCode
  uint16_t message_bytes;  //  2  UTF-8, <= kMaxFailureMessage
  uint32_t reserved;       //  4  0
};
static_assert(sizeof(FailureBody) == 8);

// A worker asks another for a part of an expert's bytes (model/expert_layout.h). Header fields other than
// generation, step_id, layer and the lengths are 0, in its answer too.
struct WeightsRequestBody {
  uint16_t expert;     //  0  < kMaxExperts
  uint16_t reserved;   //  2  0
  uint32_t max_bytes;  //  4  in [1, kMaxWeightsChunk]
  uint64_t offset;     //  8  0 or where the last answer about this expert ended; < kMaxExpertBytes
};
static_assert(sizeof(WeightsRequestBody) == 16);

enum class WeightType : uint16_t { f32 = 0, bf16 = 1, e4m3 = 2 };
inline constexpr uint16_t kNumWeightTypes = 3;

// The answer: bytes of the expert follow, padded to 8 bytes with zeros.
struct WeightsBody {
  uint16_t expert;       //  0  < kMaxExperts
  uint16_t type;         //  2  WeightType of its matrices
  uint32_t chunk_bytes;  //  4  in [1, kMaxWeightsChunk]
  uint64_t offset;       //  8  of the chunk; offset + chunk_bytes <= total_bytes
  uint64_t total_bytes;  // 16  of the expert; <= kMaxExpertBytes
  uint32_t crc32c;       // 24  of the expert's bytes from 0 to this chunk's end
  uint32_t reserved;     // 28  0
};
static_assert(sizeof(WeightsBody) == 32);

// The payload of a hint (router -> worker that offloads): experts of the header's layer follow, u16 each, the
// likeliest first, padded to 8 bytes with zeros. Header fields other than generation, step_id, layer and the
// lengths are 0.
struct HintBody {
  uint32_t num_experts;  //  0  in [1, kMaxExperts]
  uint32_t reserved;     //  4  0
};
static_assert(sizeof(HintBody) == 8);

// base/status.h's Code as it travels: these numbers never change meaning. Unknown ones read as internal.
enum class WireCode : uint16_t {
  invalid_argument = 1,
  not_found = 2,
  unsupported = 3,
  data_loss = 4,
  resource_exhausted = 5,
  unavailable = 6,
  deadline_exceeded = 7,
  peer_lost = 8,
  cancelled = 9,
  internal = 10,
};

// Bounds, with their reasons: large enough for every model family we know, small enough that no header can
// ask for absurd memory.
inline constexpr uint32_t kMaxLayers = 1024;
inline constexpr uint32_t kMaxMicroBatches = 4;
inline constexpr uint32_t kMaxExperts = 4096;
inline constexpr uint32_t kMaxTopK = 64;
inline constexpr uint32_t kMaxHidden = 65536;
inline constexpr uint32_t kMaxRows = 65536;
inline constexpr uint32_t kMaxPairs = kMaxRows * kMaxTopK;
inline constexpr uint32_t kMaxFailureMessage = 1024;
inline constexpr uint64_t kMaxFrameBytes = 4ull << 30;
inline constexpr uint32_t kMaxWeightsChunk = 1u
                                             << 20;  // what a dispatch may have to wait for: well below 1 ms
inline constexpr uint64_t kMaxExpertBytes = 64ull << 30;

// Where an fp8 row's scales begin: after its codes, padded so that they stay aligned in every row.
constexpr uint64_t fp8_scales_offset(uint64_t hidden) { return (hidden + 3) & ~uint64_t{3}; }

// What one row takes in a frame; rows follow each other without padding.
constexpr uint64_t row_bytes(Codec codec, uint64_t hidden) {
  if (codec == Codec::f32) return hidden * 4;
  if (codec == Codec::bf16) return hidden * 2;
  return fp8_scales_offset(hidden) + (hidden + kFp8Group - 1) / kFp8Group * 4;
}

}  // namespace guildhall
