#include "router/cluster.h"

#include <boost/asio/io_context.hpp>

#include "base/check.h"
#include "router/control_messages.h"
#include "router/worker_link.h"

namespace guildhall {

Cluster::Cluster(boost::asio::io_context& io, ClusterOptions options, std::vector<WorkerAddress> workers,
                 const Placement& placement, ClusterEvents events) {
  const auto shared = std::make_shared<const ClusterOptions>(std::move(options));
  for (size_t i = 0; i < workers.size(); ++i) {
    const auto worker = static_cast<int32_t>(i);
    links_.push_back(std::make_shared<WorkerLink>(io, shared, std::move(workers[i]), worker,
                                                  Holdings{placement.version, placement.experts_of(worker)},
                                                  events));
  }
}

Cluster::~Cluster() = default;

void Cluster::start() {
  for (const auto& link : links_) link->dial();
}

void Cluster::drop(int32_t worker, uint64_t generation, const Status& why) {
  link(worker).drop(generation, why);
}

void Cluster::acknowledge(int32_t worker, uint64_t generation, uint32_t version) {
  link(worker).acknowledge(generation, version);
}

void Cluster::set_transport(int32_t worker, std::string description) {
  link(worker).set_transport(std::move(description));
}

void Cluster::close() {
  for (const auto& link : links_) link->close();
}

void Cluster::add_experts(MoveRequest request, MoveDone done) {
  GH_CHECK(request.from_worker != request.worker);
  const uint64_t id = next_move_id_.fetch_add(1, std::memory_order_relaxed);
  const std::string from = request.from_worker ? link(*request.from_worker).address().address : "";
  link(request.worker).move(id, add_experts_message(id, request, from), std::move(done));
}

void Cluster::drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) {
  const uint64_t id = next_move_id_.fetch_add(1, std::memory_order_relaxed);
  link(worker).move(id, drop_experts_message(id, experts_l), std::move(done));
}

std::vector<WorkerHoldings> Cluster::holdings() const {
  std::vector<WorkerHoldings> all;
  for (const auto& link : links_) all.push_back(link->holdings());
  return all;
}

std::vector<WorkerStatus> Cluster::status() const {
  std::vector<WorkerStatus> all;
  for (const auto& link : links_) all.push_back(link->status());
  return all;
}

}  // namespace guildhall
