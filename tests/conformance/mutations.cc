// mutations.cc: wrong sizes, wrong headers, and payloads that are not what was sealed.
#include "tests/conformance/mutations.h"

#include <cstring>

#include "proto/codec.h"

namespace guildhall {
namespace {

using Bytes = std::vector<std::byte>;

Mutation header(std::string name, std::function<void(FrameHeader&)> change, Code code = Code::data_loss) {
  return {std::move(name),
          [change = std::move(change)](Bytes& frame) {
            FrameHeader header;
            std::memcpy(&header, frame.data(), sizeof header);
            change(header);
            std::memcpy(frame.data(), &header, sizeof header);
          },
          code};
}

void add_sizes(std::vector<Mutation>& all) {
  all.push_back({"cut to nothing", [](Bytes& f) { f.clear(); }});
  all.push_back({"cut in the header", [](Bytes& f) { f.resize(13); }});
  all.push_back({"cut behind the header", [](Bytes& f) { f.resize(sizeof(FrameHeader)); }});
  all.push_back({"cut in the payload", [](Bytes& f) { f.resize(sizeof(FrameHeader) + 20); }});
  all.push_back({"one byte short", [](Bytes& f) { f.pop_back(); }});
  all.push_back({"one byte long", [](Bytes& f) { f.push_back(std::byte{0}); }});
  all.push_back({"eight bytes long", [](Bytes& f) { f.resize(f.size() + 8); }});
  all.push_back({"many pages long", [](Bytes& f) { f.resize(f.size() + (100 << 10)); }});
}

void add_headers(std::vector<Mutation>& all) {
  all.push_back(header("another magic", [](FrameHeader& h) { h.magic ^= 0x100; }));
  all.push_back(header("version 0", [](FrameHeader& h) { h.version = 0; }));
  all.push_back(header(
      "a newer version", [](FrameHeader& h) { ++h.version; }, Code::unsupported));
  all.push_back(header("an unknown kind", [](FrameHeader& h) { h.kind = 9; }));
  all.push_back(header("the other direction's kind",
                       [](FrameHeader& h) { h.kind = static_cast<uint16_t>(3 - h.kind); }));
  all.push_back(header("an impossible layer", [](FrameHeader& h) { h.layer = kMaxLayers; }));
  all.push_back(
      header("an impossible micro-batch", [](FrameHeader& h) { h.micro_batch = kMaxMicroBatches; }));
  all.push_back(header("an unknown codec", [](FrameHeader& h) { h.codec = 77; }));
  all.push_back(header("an unknown combine", [](FrameHeader& h) { h.combine = 2; }));
  all.push_back(header("an unknown answer_codec", [](FrameHeader& h) { h.answer_codec = 77; }));
  all.push_back(header("a reserved field", [](FrameHeader& h) { h.reserved2 = 1; }));
  all.push_back(header("one row more", [](FrameHeader& h) { ++h.num_rows; }));
  all.push_back(header("one row less", [](FrameHeader& h) { --h.num_rows; }));
  all.push_back(header("too many rows", [](FrameHeader& h) { h.num_rows = kMaxPairs + 1; }));
  all.push_back(header("too many pairs", [](FrameHeader& h) { h.num_pairs = 0xffffffff; }));
  all.push_back(header("wider rows", [](FrameHeader& h) { h.hidden += 2; }));
  all.push_back(header("rows of nothing", [](FrameHeader& h) { h.hidden = 0; }));
  all.push_back(header("a payload of 2^63", [](FrameHeader& h) { h.payload_bytes = uint64_t{1} << 63; }));
  all.push_back(header("a payload of -64", [](FrameHeader& h) { h.payload_bytes = uint64_t{0} - 64; }));
}

void add_payloads(std::vector<Mutation>& all) {
  const auto sealed = [](std::string name, std::function<void(Bytes&)> damage) {
    return Mutation{std::move(name), [damage = std::move(damage)](Bytes& f) {
                      seal_frame(f);
                      damage(f);
                    }};
  };
  all.push_back(sealed("a corrupt first byte", [](Bytes& f) { f[sizeof(FrameHeader)] ^= std::byte{0x80}; }));
  all.push_back(sealed("a corrupt last byte", [](Bytes& f) { f.back() ^= std::byte{1}; }));
  all.push_back(
      sealed("a corrupt bit amid the rows", [](Bytes& f) { f[f.size() / 2 + 32] ^= std::byte{4}; }));
  all.push_back(sealed("a corrupt checksum",
                       [](Bytes& f) { f[offsetof(FrameHeader, payload_crc32c)] ^= std::byte{1}; }));
}

}  // namespace

std::vector<Mutation> wrong_frames() {
  std::vector<Mutation> all;
  add_sizes(all);
  add_headers(all);
  add_payloads(all);
  return all;
}

Mutation too_large_frame() {
  return {"larger than a frame may be", [](Bytes& f) { f.resize(1 << 20); }};
}

}  // namespace guildhall
