// peer_reply.h: a completion answered by a peer router: the request goes there as it came, and the answer
// comes back through this connection. One hop only: a request that was forwarded is never forwarded again.
#pragma once

#include "router/http/client_socket.h"
#include "router/http/message.h"
#include "router/http/service.h"

namespace guildhall {

// Set on what we forward.
inline constexpr std::string_view kHopHeader = "x-guildhall-hop";

// Runs on the client's strand, whose watch has started. `engine_request` is for the peer's accounts; null
// when nobody looked at the body. Nothing: the client was sent nothing, and the request is to be served here.
// Otherwise the status of the answer. When the client leaves, the peer's connection is closed, which cancels.
Task<std::optional<int>> answer_from_peer(ClientSocket& client, Peers& peers, size_t peer_idx,
                                          const HttpRequest& request, const EngineRequest* engine_request);

}  // namespace guildhall
