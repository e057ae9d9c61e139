// worker_link.h: one worker's control link, from dialling to ready and back. Ready means: its experts are
// loaded, and it has announced them. What it was asked to move ends with the link.
// Owner: the io thread; methods are for any thread, dial() for the io thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "router/cluster.h"
#include "transport/control/control_client.h"

namespace guildhall {

namespace control {
class Holdings;
class LoadStatus;
class MoveStatus;
}  // namespace control

class WorkerLink : public std::enable_shared_from_this<WorkerLink> {
 public:
  // `share`: what it is asked to load at first.
  WorkerLink(boost::asio::io_context& io, std::shared_ptr<const ClusterOptions> options,
             WorkerAddress address, int32_t worker, Holdings share, ClusterEvents events);

  void dial();
  void drop(uint64_t generation, const Status& why);
  void acknowledge(uint64_t generation, uint32_t version);
  void set_transport(std::string description);
  void close();

  // Sends what asks for a move; `done` as Cluster has it.
  void move(uint64_t move_id, control::Envelope message, MoveDone done);

  const WorkerAddress& address() const { return address_; }
  WorkerStatus status() const;
  WorkerHoldings holdings() const;

 private:
  void on_dialed(const Result<DialedLink>& dialed);
  void on_dial_failed(const Status& why);
  void on_message(const control::Envelope& message);
  void on_load_status(const control::LoadStatus& load);
  void on_holdings(const control::Holdings& message);
  void on_move_status(const control::MoveStatus& message);
  void on_refused(const Status& why);
  void on_closed(const LinkPtr& link, const Status& why);
  void become_ready();
  void redial_later();
  void fail_moves(const Status& why);
  void set_state(std::string state);
  void set_error(std::string state, const Status& why);
  std::string who() const { return "worker=" + address_.name; }

  boost::asio::io_context& io_;
  const std::shared_ptr<const ClusterOptions> options_;
  const WorkerAddress address_;
  const int32_t worker_;
  const ClusterEvents events_;
  ControlClient client_;
  boost::asio::steady_timer redial_;
  LinkPtr link_;
  std::string exchange_address_;
  bool offloads_ = false;
  uint64_t generation_ = 0;
  Holdings settled_;    // what it is asked to load if it holds nothing: all that was acknowledged last
  Holdings announced_;  // on this link
  std::map<uint64_t, MoveDone> moves_;  // under way, by id
  bool loaded_ = false, ready_ = false, was_ready_ = false, closed_ = false;
  mutable std::mutex mutex_;  // guards what any thread reads
  WorkerStatus status_;
  WorkerHoldings holdings_;
};

}  // namespace guildhall
