// experts_reply.h: answers GET /v1/cluster/experts, for which other routers may have to be asked, and
// POST /v1/cluster/trace.
#pragma once

#include "router/http/client_socket.h"
#include "router/http/message.h"
#include "router/http/service.h"

namespace guildhall {

// Parameters outlive the task. Runs on the connection's strand.
Task<HttpReply> answer_experts(const HttpService& service, const HttpRequest& request);

// Returns when a trace that was to end is whole: within the time that its last steps take to be written.
HttpReply answer_trace(ExpertMonitor& monitor, const HttpRequest& request);

}  // namespace guildhall
