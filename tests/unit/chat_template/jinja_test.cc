// jinja_test.cc: what the comparison with Jinja does not show: errors that tell the line, limits, the clock,
// threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <thread>

#include "model/chat_template/jinja_template.h"

namespace guildhall {
namespace {

namespace json = boost::json;
using jinja::JinjaTemplate;
using jinja::TemplateLimits;
using testing::HasSubstr;

std::chrono::system_clock::time_point epoch() { return std::chrono::system_clock::from_time_t(0); }

Result<std::string> render(std::string_view source, const json::object& names = {},
                           const TemplateLimits& limits = {}) {
  const auto parsed = JinjaTemplate::parse(source, limits);
  if (!parsed) return parsed.error();
  return parsed->render(names, epoch);
}

std::string failure_of(std::string_view source, const json::object& names = {},
                       const TemplateLimits& limits = {}) {
  const Result<std::string> text = render(source, names, limits);
  return text ? "printed " + *text : text.error().message;
}

TEST(Jinja, TellsTheLineOfASyntaxError) {
  EXPECT_EQ(failure_of("a\nb {{ 1 + }}"),
            "chat template, line 2: expected an expression, found the end of the tag");
  EXPECT_EQ(failure_of("{% if true %}\n\nx"), "chat template, line 3: the template ends before {% endif %}");
  EXPECT_THAT(failure_of("\n\n{% include 'x' %}"), HasSubstr("line 3: {% include %} is not supported"));
  EXPECT_THAT(failure_of("{{ 'abc"), HasSubstr("a string has no end"));
  EXPECT_THAT(failure_of("{{ (1] }}"), HasSubstr("unexpected ']', expected ')'"));
  EXPECT_THAT(failure_of("\n{# never"), HasSubstr("line 2: a comment {# has no end"));
  EXPECT_THAT(failure_of("\xff"), HasSubstr("not valid UTF-8"));
}

TEST(Jinja, TellsTheLineOfAnErrorWhileRendering) {
  EXPECT_EQ(failure_of("a\n{{ x.y }}"), "chat template, line 2: 'x' is undefined");
  EXPECT_EQ(failure_of("{% macro m(a) %}\n{{ a + 1 }}{% endmacro %}\n{{ m('b') }}"),
            "chat template, line 2: + does not work between str and int");
  EXPECT_EQ(failure_of("{{ 1 | nosuch }}"), "chat template, line 1: there is no filter named nosuch");
  EXPECT_EQ(failure_of("{{ 1 is nosuch }}"), "chat template, line 1: there is no test named nosuch");
}

TEST(Jinja, GivesARaisedMessageAsItIs) {
  EXPECT_EQ(failure_of("\n{{ raise_exception('roles must alternate') }}"), "roles must alternate");
}

TEST(Jinja, EndsATemplateThatTakesTooManySteps) {
  TemplateLimits limits;
  limits.max_steps = 10'000;
  EXPECT_THAT(
      failure_of("{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}", {}, limits),
      HasSubstr("takes more than 10000 steps"));
  EXPECT_THAT(
      failure_of(
          "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
          {}, limits),
      HasSubstr("steps"));
}

TEST(Jinja, EndsATextThatGrowsTooLong) {
  TemplateLimits limits;
  limits.max_text_bytes = 1000;
  const std::string expected = "makes a text of more than 1000 bytes";
  for (const std::string_view source :
       {"{{ 'x' * 1001 }}", "{{ 'x' * 1000 * 1000000000 }}", "{% for i in range(600) %}ab{% endfor %}",
        "{% set x %}{% for i in range(600) %}ab{% endfor %}{% endset %}",
        "{{ ('a' * 600).replace('a', 'bb') }}", "{{ ('a' * 600) ~ ('a' * 600) }}",
        "{{ range(900) | join('--') }}", "{{ [['a']] | tojson(indent=600) }}",
        "{{ ('a\n' * 300) | indent(50) }}", "{{ range(900) | list }}"})
    EXPECT_THAT(failure_of(source, {}, limits), HasSubstr(expected)) << source;
  EXPECT_EQ(render("{{ 'x' * 1000 }}", {}, limits).value().size(), 1000u);
}

TEST(Jinja, EndsWhatNestsTooDeep) {
  const auto times = [](int count, std::string_view text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += text;
    return all;
  };
  for (const std::string& source :
       {"{{ " + times(5000, "(") + "1" + times(5000, ")") + " }}", "{{ 1" + times(5000, " + 1") + " }}",
        "{{ " + times(5000, "not ") + "1 }}", "{{ " + times(5000, "-") + "1 }}",
        "{{ a" + times(5000, ".a") + " }}", "{{ a" + times(5000, "|trim") + " }}", times(5000, "{% if a %}"),
        "{% if a %}" + times(5000, "{% elif a %}") + "{% endif %}",
        "{{ " + times(5000, "[") + times(5000, "]") + " }}",
        "{% for " + times(5000, "(") + "a" + times(5000, ")") + " in b %}{% endfor %}"})
    EXPECT_THAT(failure_of(source), HasSubstr("nests deeper than 200 levels")) << source.substr(0, 40);
  EXPECT_THAT(failure_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("too deeply"));
  EXPECT_THAT(
      failure_of(
          "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}"),
      HasSubstr("nests values deeper"));
}

TEST(Jinja, TakesApartWhatHoldsItself) {
  EXPECT_THAT(failure_of("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}"), HasSubstr("nested deeper"));
  EXPECT_THAT(failure_of("{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}"),
              HasSubstr("nested deeper"));
  EXPECT_THAT(
      failure_of(
          "{% set a = [] %}{% set _ = a.append(a) %}{% set b = [] %}{% set _ = b.append(b) %}{{ a == b }}"),
      HasSubstr("nested deeper"));
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.self = ns %}ok").value(), "ok");
  // A chain of 5000 lists, each appended to the one before.
  EXPECT_EQ(
      render("{% set ns = namespace(now=[]) %}{% set head = ns.now %}{% for i in range(5000) %}"
             "{% set next = [] %}{% set _ = ns.now.append(next) %}{% set ns.now = next %}{% endfor %}ok")
          .value(),
      "ok");
}

TEST(Jinja, RefusesNumbersBeyond64Bits) {
  EXPECT_THAT(failure_of("{{ 9223372036854775807 + 1 }}"), HasSubstr("does not fit 64 bits"));
  EXPECT_THAT(failure_of("{{ 99999999999999999999 }}"), HasSubstr("does not fit 64 bits"));
  EXPECT_THAT(failure_of("{{ x }}", {{"x", UINT64_MAX}}), HasSubstr("does not fit 64 bits"));
  EXPECT_EQ(render("{{ -9223372036854775807 - 1 }}{{ (-9223372036854775807 - 1) % -1 }}").value(),
            "-92233720368547758080");
}

TEST(Jinja, AsksTheGivenClock) {
  setenv("TZ", "UTC", 1);
  EXPECT_EQ(render("{{ strftime_now('%Y-%m-%d %H:%M') }}").value(), "1970-01-01 00:00");
}

TEST(Jinja, RendersInManyThreadsAtOnce) {
  const JinjaTemplate parsed =
      JinjaTemplate::parse(
          "{% set l = ['a'] %}{{ l.append(n) or '' }}{% macro m(x) %}<{{ x }}>{% endmacro %}"
          "{% for i in l %}{{ m(i) }}{% endfor %}{{ {'k': 'v'} | tojson }}")
          .value();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&parsed, t] {
      for (int i = 0; i < 200; ++i)
        ASSERT_EQ(parsed.render({{"n", t}}, epoch).value(), "<a><" + std::to_string(t) + ">{\"k\": \"v\"}");
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace guildhall
