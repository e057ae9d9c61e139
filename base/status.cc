#include "base/status.h"

#include <stdexcept>

namespace guildhall {

std::string_view to_string(Code code) {
  switch (code) {
    case Code::invalid_argument:
      return "invalid_argument";
    case Code::not_found:
      return "not_found";
    case Code::unsupported:
      return "unsupported";
    case Code::data_loss:
      return "data_loss";
    case Code::resource_exhausted:
      return "resource_exhausted";
    case Code::unavailable:
      return "unavailable";
    case Code::deadline_exceeded:
      return "deadline_exceeded";
    case Code::peer_lost:
      return "peer_lost";
    case Code::cancelled:
      return "cancelled";
    case Code::internal:
      return "internal";
  }
  return "unknown";
}

std::string to_string(const Status& status) {
  return std::string(to_string(status.code)) + ": " + status.message;
}

void throw_exception_from_error(const Status& status, const boost::source_location&) {
  throw std::runtime_error(to_string(status));
}

}  // namespace guildhall
