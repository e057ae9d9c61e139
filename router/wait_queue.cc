#include "router/wait_queue.h"

#include <algorithm>

#include "base/check.h"

namespace guildhall {
namespace {

// What a request asks for, in tokens.
double work(const Sequence& s) { return static_cast<double>(s.prompt_len() + s.request.max_tokens); }

}  // namespace

void WaitQueue::add(std::unique_ptr<Sequence> sequence) {
  Level& level = level_of_[sequence->request.priority];
  Tenant& tenant = level.tenants[sequence->request.tenant];
  if (tenant.line.empty()) tenant.given = std::max(tenant.given, level.now);  // idle time earns nothing
  tenant.line.push_back(std::move(sequence));
  ++size_;
}

void WaitQueue::put_back(std::unique_ptr<Sequence> sequence) {
  level_of_[sequence->request.priority].put_back.push_front(std::move(sequence));
  ++size_;
}

bool WaitQueue::Level::empty() const {
  return put_back.empty() &&
         std::ranges::all_of(tenants, [](const auto& t) { return t.second.line.empty(); });
}

WaitQueue::Level* WaitQueue::first_level() {
  for (auto& [priority, level] : level_of_)
    if (!level.empty()) return &level;
  return nullptr;
}

// Of tenants that were given equally much, whose request came first.
WaitQueue::Line& WaitQueue::Level::next_line() {
  if (!put_back.empty()) return put_back;
  Tenant* next = nullptr;
  for (auto& [name, tenant] : tenants) {
    if (tenant.line.empty()) continue;
    if (next == nullptr || tenant.given < next->given ||
        (tenant.given == next->given && tenant.line.front()->id < next->line.front()->id))
      next = &tenant;
  }
  GH_CHECK(next != nullptr);
  return next->line;
}

Sequence* WaitQueue::next() {
  Level* level = first_level();
  return level == nullptr ? nullptr : level->next_line().front().get();
}

std::unique_ptr<Sequence> WaitQueue::take_next() {
  Level* level = first_level();
  GH_CHECK(level != nullptr);
  Line& line = level->next_line();
  auto sequence = std::move(line.front());
  line.pop_front();
  --size_;
  if (&line == &level->put_back) return sequence;
  Tenant& tenant = level->tenants[sequence->request.tenant];
  level->now = std::max(level->now, tenant.given);
  tenant.given += work(*sequence);
  // Who waits for nothing and is not ahead of the others begins anew when it comes back.
  std::erase_if(level->tenants,
                [&](const auto& t) { return t.second.line.empty() && t.second.given <= level->now; });
  return sequence;
}

std::unique_ptr<Sequence> WaitQueue::remove(RequestId id) {
  const auto take = [&](Line& line) -> std::unique_ptr<Sequence> {
    const auto it = std::ranges::find(line, id, [](const auto& s) { return s->id; });
    if (it == line.end()) return nullptr;
    auto sequence = std::move(*it);
    line.erase(it);
    --size_;
    return sequence;
  };
  for (auto& [priority, level] : level_of_) {
    if (auto sequence = take(level.put_back)) return sequence;
    for (auto& [name, tenant] : level.tenants)
      if (auto sequence = take(tenant.line)) return sequence;
  }
  return nullptr;
}

void WaitQueue::for_each(const std::function<void(const Sequence&)>& visit) const {
  for (const auto& [priority, level] : level_of_) {
    for (const auto& s : level.put_back) visit(*s);
    for (const auto& [name, tenant] : level.tenants)
      for (const auto& s : tenant.line) visit(*s);
  }
}

}  // namespace guildhall
