// envelope.h: control-plane messages as bytes and back: a 4-byte little-endian length, then an Envelope
// (WIRE.md §2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

namespace control {
class Envelope;
}

// major << 16 | minor. Majors must be equal; a minor adds messages and fields the other side may ignore.
inline constexpr uint32_t kControlVersion = 1u << 16;
// Replicas of one router, each a peer of its own on the data plane. Each keeps slots on every worker.
inline constexpr int kMaxReplicas = 64;
constexpr uint32_t control_major(uint32_t version) { return version >> 16; }

// A placement of 1024 layers x 4096 experts takes about 8 MiB. Larger messages drop the link.
inline constexpr size_t kMaxEnvelopeBytes = 16u << 20;
// Of the first message of a link, before the peer has shown what it is.
inline constexpr size_t kMaxFirstEnvelopeBytes = 1u << 20;
inline constexpr size_t kEnvelopePrefixBytes = 4;

// The error says how large the message is when it exceeds kMaxEnvelopeBytes.
Result<std::string> encode_envelope(const control::Envelope& envelope);

// Collects a stream's bytes and cuts it into envelopes. Holds at most one message more than it was fed:
// memory grows with bytes that came, never with a length that was only claimed. One thread.
class EnvelopeAssembler {
 public:
  explicit EnvelopeAssembler(size_t max_bytes = kMaxEnvelopeBytes) : max_bytes_(max_bytes) {}

  void feed(std::string_view bytes);
  void set_max_bytes(size_t max_bytes) { max_bytes_ = max_bytes; }  // of one message, <= kMaxEnvelopeBytes

  // The next whole message; nullopt: more bytes are due. After an error the stream is lost and every call
  // repeats it.
  Result<std::optional<control::Envelope>> next();

 private:
  size_t max_bytes_;
  std::string buffer_;
  size_t begin_ = 0;  // of what is not yet consumed
};

}  // namespace guildhall
