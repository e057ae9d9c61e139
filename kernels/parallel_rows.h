// parallel_rows.h: splits a kernel's rows into pieces worth a thread's while.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "kernels/team.h"

namespace guildhall {

// A piece smaller than this many floats costs less to compute than to hand to another thread.
inline constexpr int64_t kMinPieceFloats = 8192;

// body(begin, end) over [0, num_rows) in pieces; on the caller alone when there is only one piece's work.
// Allocates nothing: the team sees the body by reference.
template <class Body>
void parallel_rows(Team& team, int64_t num_rows, int64_t floats_per_row, const Body& body) {
  const int64_t min_rows = std::max<int64_t>(1, kMinPieceFloats / std::max<int64_t>(1, floats_per_row));
  const int64_t num_pieces = std::min<int64_t>(num_rows / min_rows, 4 * team.num_threads());
  if (team.num_threads() == 1 || num_pieces <= 1) {
    body(int64_t{0}, num_rows);
    return;
  }
  const auto piece = [&](int64_t i) { body(num_rows * i / num_pieces, num_rows * (i + 1) / num_pieces); };
  team.parallel_for(num_pieces, std::ref(piece));
}

}  // namespace guildhall
