// completion_reply.h: answers POST /v1/completions and /v1/chat/completions over one connection: waits for
// the engine, watches the client.
#pragma once

#include "router/http/client_socket.h"
#include "router/http/message.h"
#include "router/http/service.h"

namespace guildhall {

// Returns once the answer is written, with its status, or the client is gone (whose sequences are cancelled
// in the engine then), with 499. `max_early_bytes` of pipelined requests may wait in the socket (take_early).
// Parameters outlive the task; a request_id in the body becomes the request's. Runs on the socket's strand.
Task<int> answer_completion(ClientSocket& client, const HttpService& service, HttpRequest& request,
                            size_t max_early_bytes);

}  // namespace guildhall
