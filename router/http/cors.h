// cors.h: which web pages' scripts may read our answers: what the Fetch standard's CORS protocol has a server
// say to a browser. It keeps pages out, not clients: who sends no Origin is not concerned. Any thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace guildhall {

// A browser's question before a request that is more than a form's: OPTIONS with these headers.
struct Preflight {
  std::string origin;   // "https://chat.example.org"
  std::string headers;  // access-control-request-headers: names, separated by commas
};

class CorsPolicy {
 public:
  // As browsers send them, "https://chat.example.org"; or one "*": all pages. Empty: none.
  explicit CorsPolicy(std::vector<std::string> origins);

  bool allows(std::string_view origin) const;
  // Header lines for any answer to a request from this origin; empty: it came from no page.
  std::string answer_lines(std::string_view origin) const;
  // Whether browsers may send what they ask for: these headers say so. `methods` are the path's.
  std::vector<std::pair<std::string_view, std::string>> preflight_headers(const Preflight& preflight,
                                                                          std::string_view methods) const;

 private:
  const std::vector<std::string> origins_;
  const bool all_;
};

}  // namespace guildhall
