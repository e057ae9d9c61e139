// chat_template_tool.cc: renders each line of stdin, {"template": ..., "context": {...}}, to one line:
// {"text": ...} or
// {"error": ...}. For differential.py.
#include <boost/json.hpp>
#include <iostream>
#include <string>

#include "model/chat_template/jinja_template.h"

int main() {
  using namespace guildhall;
  namespace json = boost::json;
  // strftime_now sees 2025-01-02 03:04:05 in UTC, as jinja_oracle.py has it.
  setenv("TZ", "UTC", 1);
  const auto clock = [] { return std::chrono::system_clock::from_time_t(1735787045); };
  for (std::string line; std::getline(std::cin, line);) {
    const json::value request = json::parse(line);
    const auto parsed = jinja::JinjaTemplate::parse(request.at("template").as_string());
    const Result<std::string> text = parsed ? parsed->render(request.at("context").as_object(), clock)
                                            : Result<std::string>(parsed.error());
    json::object answer;
    if (text)
      answer["text"] = *text;
    else
      answer["error"] = text.error().message;
    std::cout << json::serialize(answer) << "\n";
  }
  return 0;
}
