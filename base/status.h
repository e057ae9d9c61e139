// status.h: what went wrong, for whom, and the Result that carries either a value or that.
// Operational failures travel as Result; bugs crash through GH_CHECK (check.h).
#pragma once

#include <boost/system/result.hpp>
#include <string>
#include <string_view>

namespace guildhall {

enum class Code {
  invalid_argument,    // the caller's input is wrong; retrying will not help
  not_found,           // a file, tensor, model or peer that was named is not there
  unsupported,         // well-formed, but this build or version does not do it
  data_loss,           // truncated or corrupt bytes
  resource_exhausted,  // memory, KV pages or a queue is full; retrying later may help
  unavailable,         // not ready yet, or draining
  deadline_exceeded,
  peer_lost,
  cancelled,
  internal,
};

std::string_view to_string(Code code);

struct Status {
  Code code = Code::internal;
  std::string message;  // says who, what, and what would work
};

// "invalid_argument: config.yaml:3: ..."
std::string to_string(const Status& status);

// Lets Result::value() throw std::runtime_error with the message (used in tests only).
[[noreturn]] void throw_exception_from_error(const Status& status, const boost::source_location& where);

template <class T>
using Result = boost::system::result<T, Status>;

}  // namespace guildhall

// Returns the error of `expr` (a Result) from the enclosing function.
#define GH_TRY(expr)                                                                         \
  do {                                                                                       \
    if (auto gh_result = (expr); gh_result.has_error()) return std::move(gh_result).error(); \
  } while (false)

#define GH_CONCAT_INNER(a, b) a##b
#define GH_CONCAT(a, b) GH_CONCAT_INNER(a, b)

// GH_ASSIGN(auto spec, read_spec(path)): declares `spec`, or returns the error.
#define GH_ASSIGN(declaration, expr) GH_ASSIGN_INNER(GH_CONCAT(gh_result_, __LINE__), declaration, expr)
#define GH_ASSIGN_INNER(result, declaration, expr)          \
  auto result = (expr);                                     \
  if (result.has_error()) return std::move(result).error(); \
  declaration = *std::move(result)
