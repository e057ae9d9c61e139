// live_placement.h: what each attached worker may be asked for: what it announced last, and of what it
// announced before those experts that no other attached worker holds yet. They stay in use until one does;
// only then is the announcement settled, and the worker told that it may free them. So routers that hear of a
// new replica later than of the old one's end are safe.
// Owner: the engine thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "router/replica_table.h"

namespace guildhall {

class LivePlacement {
 public:
  LivePlacement(ExpertGrid grid, int64_t num_workers);

  // A new link: nothing of what was announced on another counts.
  void attach(int32_t worker, Holdings holdings);
  void announce(int32_t worker, Holdings holdings);  // by a worker that is attached
  void detach(int32_t worker);

  // The table of now; built anew if something has changed.
  const ReplicaTable& table();

  bool is_attached(int32_t worker) const { return member(worker).is_attached; }
  bool all_attached() const;
  bool is_covered() { return table().num_uncovered() == 0; }
  // "layer 3 expert 17 is held by nobody, as are 41 more"; empty: covered.
  std::string uncovered();
  // Of its last announcement.
  uint32_t version(int32_t worker) const { return member(worker).announced.version; }
  // Of an attached worker: its last announcement.
  const Holdings& announced(int32_t worker) const { return member(worker).announced; }
  // Nothing beside its last announcement is in use.
  bool is_settled(int32_t worker);

 private:
  struct Member {
    bool is_attached = false;
    Holdings announced;
    ExpertsOfLayer kept_l;  // left with the last announcement, and in use still
  };

  const Member& member(int32_t worker) const { return members_[static_cast<size_t>(worker)]; }
  Member& member(int32_t worker) { return members_[static_cast<size_t>(worker)]; }
  void build_table(bool with_kept);

  std::vector<Member> members_;
  bool is_stale_ = false;  // the table
  ReplicaTable table_;
  std::vector<std::vector<const ExpertsOfLayer*>> held_w_;  // scratch of table()
};

}  // namespace guildhall
