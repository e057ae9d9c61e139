// ask_loads.h: the other routers' loads, asked for all at once (GET /v1/cluster/experts?format=protobuf).
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>
#include <vector>

#include "router/http/peer_options.h"
#include "router/loads_message.h"

namespace guildhall {

struct LoadsQuestion {
  std::vector<PeerOptions::Peer> routers;
  std::string authorization;  // empty: none is needed
  TraceHeader shape;
  int64_t num_workers = 0;
};

// In the order of the question; those that are silent for two seconds, or answer something else, have an
// error. Runs on the caller's strand.
boost::asio::awaitable<std::vector<RouterAnswer>> ask_loads(LoadsQuestion question);

}  // namespace guildhall
