// wait_queue.h: which waiting request runs next. A lower priority number goes first; of one priority, tenants
// take turns by the work they were given (start-time fair queueing, Goyal, Vin and Cheng 1996), and a
// tenant's own requests go in the order in which they came. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "router/sequence.h"

namespace guildhall {

class WaitQueue {
 public:
  void add(std::unique_ptr<Sequence> sequence);
  // A sequence that ran already goes before all others of its priority, and is not charged again.
  void put_back(std::unique_ptr<Sequence> sequence);

  bool empty() const { return size_ == 0; }
  int64_t size() const { return size_; }
  // The sequence whose turn it is, the same until the queue changes; nullptr: none waits.
  Sequence* next();
  std::unique_ptr<Sequence> take_next();
  std::unique_ptr<Sequence> remove(RequestId id);  // nullptr: it does not wait here
  void for_each(const std::function<void(const Sequence&)>& visit) const;

 private:
  using Line = std::deque<std::unique_ptr<Sequence>>;
  struct Tenant {
    Line line;
    double given = 0;  // work of its requests that were taken, in virtual time
  };
  struct Level {
    Line put_back;
    std::map<std::string, Tenant> tenants;  // who waits, and who is ahead of the others
    double now = 0;                         // virtual time: what the tenant taken last had been given

    bool empty() const;
    Line& next_line();
  };
  Level* first_level();

  std::map<int32_t, Level> level_of_;  // by priority
  int64_t size_ = 0;
};

}  // namespace guildhall
