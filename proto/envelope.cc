#include "proto/envelope.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include "proto/control.pb.h"

namespace guildhall {

Result<std::string> encode_envelope(const control::Envelope& envelope) {
  const size_t bytes = envelope.ByteSizeLong();
  if (bytes > kMaxEnvelopeBytes)
    return Status{Code::invalid_argument, fmt::format("control message of {} bytes exceeds the limit of {}",
                                                      bytes, kMaxEnvelopeBytes)};
  std::string out(kEnvelopePrefixBytes + bytes, '\0');
  for (size_t i = 0; i < kEnvelopePrefixBytes; ++i) out[i] = static_cast<char>((bytes >> (8 * i)) & 0xff);
  envelope.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(out.data() + kEnvelopePrefixBytes));
  return out;
}

void EnvelopeAssembler::feed(std::string_view bytes) {
  // Compact only when the consumed part is the larger one, so that each byte moves a bounded number of times.
  if (begin_ > buffer_.size() / 2) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  buffer_.append(bytes);
}

Result<std::optional<control::Envelope>> EnvelopeAssembler::next() {
  const std::string_view rest = std::string_view(buffer_).substr(begin_);
  if (rest.size() < kEnvelopePrefixBytes) return std::optional<control::Envelope>();
  size_t bytes = 0;
  for (size_t i = 0; i < kEnvelopePrefixBytes; ++i) bytes |= size_t{static_cast<uint8_t>(rest[i])} << (8 * i);
  if (bytes > max_bytes_)
    return Status{Code::data_loss,
                  fmt::format("a message announces {} bytes, more than {}; is the other end a "
                              "Guildhall control link?",
                              bytes, max_bytes_)};
  if (rest.size() - kEnvelopePrefixBytes < bytes) return std::optional<control::Envelope>();
  std::optional<control::Envelope> envelope(std::in_place);
  // Else it writes a line of its own for every text that is not UTF-8, as often as a stranger likes.
  const google::protobuf::LogSilencer refusal_is_told_by_status;
  if (!envelope->ParseFromArray(rest.data() + kEnvelopePrefixBytes, static_cast<int>(bytes)))
    return Status{
        Code::data_loss,
        fmt::format("a message of {} bytes is not an Envelope; is the other end a Guildhall control link?",
                    bytes)};
  begin_ += kEnvelopePrefixBytes + bytes;
  if (begin_ == buffer_.size()) buffer_.clear(), begin_ = 0;
  return envelope;
}

}  // namespace guildhall
