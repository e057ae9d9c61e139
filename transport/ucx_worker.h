// ucx_worker.h: a UCP context and worker, opened from options and released in order; and UCX's word for
// things.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "base/status.h"
#include "transport/ucx_options.h"

namespace guildhall {

struct UcpContextRelease {
  void operator()(ucp_context_h context) const { ucp_cleanup(context); }
};
struct UcpWorkerRelease {
  void operator()(ucp_worker_h worker) const { ucp_worker_destroy(worker); }
};

struct UcxWorker {
  std::unique_ptr<ucp_context, UcpContextRelease> context;
  std::unique_ptr<ucp_worker, UcpWorkerRelease> worker;  // destroyed first

  ucp_worker_h get() const { return worker.get(); }
};

// A worker for one thread, with active messages, puts and wakeup.
Result<UcxWorker> open_ucx_worker(const UcxOptions& options);

// Whether this UCX moves bytes in a GPU's memory by itself.
bool knows_gpu_memory(ucp_context_h context);

Result<std::string> ucx_worker_address(ucp_worker_h worker);

// The transports an endpoint uses, in lane order: "posix+cma", "tcp/eth0".
std::string describe_ucx_endpoint(ucp_ep_h endpoint);

// The part of ucp_ep_print_info's text that describe_ucx_endpoint() wants.
std::string transports_in_endpoint_info(std::string_view info);

// Whether the endpoint's puts are the wire's own (UCX makes them of messages elsewhere: tcp, ud) and stay in
// order with its active messages behind a fence: UCX 1.13 fences each lane by itself, so both must share one.
bool has_native_put(ucp_ep_h endpoint);
bool has_native_put_in_endpoint_info(std::string_view info);

}  // namespace guildhall
