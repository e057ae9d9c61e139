// balance_settings.h: the `balance:` section and the workers as the balancer's options, for serving and for
// `guildhall balance`.
#pragma once

#include <string>
#include <vector>

#include "model/spec.h"
#include "proto/config.pb.h"
#include "router/balancer.h"

namespace guildhall {

std::vector<WorkerInfo> worker_infos(const config::Config& config);
GateOptions gate_options(const config::Balance& balance, int64_t expert_bytes);
BalancerOptions balancer_options(const config::Balance& balance, const ModelSpec& spec);
BalancedModel balanced_model(const config::Config& config, const ModelSpec& spec);

// Why the router `router_name` does not balance; empty: it does. `all` is the file's configuration.
std::string why_not_balancing(const config::Config& all, const std::string& router_name);

// What the section means for this model, a line each, for `guildhall config check`.
std::vector<std::string> describe_balancing(const config::Config& config, const ModelSpec& spec);

}  // namespace guildhall
