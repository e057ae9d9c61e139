#include "tests/support/local_engine.h"

#include <iterator>

namespace guildhall {
namespace {

EngineOptions engine_options(const ModelSpec& spec, const LocalEngineOptions& options) {
  EngineOptions engine;
  engine.scheduler = {.max_sequences = options.max_sequences, .max_batched_tokens = options.max_batched_tokens};
  engine.dispatcher = {.codec = options.codec,
                       .hidden = spec.hidden,
                       .top_k = spec.moe.top_k,
                       .max_tokens = options.max_batched_tokens,
                       .deadline = std::chrono::seconds(60)};
  engine.team = {.num_threads = options.num_threads};
  engine.max_model_len = std::min(spec.max_position, options.kv_tokens);
  engine.recovery_timeout = std::chrono::seconds(1);
  engine.on_worker_attached = [](int32_t, const std::string&) {};
  engine.on_worker_lost = [](int32_t, const Status&) {};
  return engine;
}

std::unique_ptr<KvCache> make_cache(const ModelSpec& spec, const LocalEngineOptions& options) {
  const int64_t token_bytes = kv_elements_per_token_layer(spec) * spec.num_layers * dtype_bytes(options.kv_dtype);
  return KvCache::create(spec, {.block_size = options.block_size,
                                .memory_bytes = options.kv_tokens * token_bytes,
                                .dtype = options.kv_dtype,
                                .max_model_len = std::min(spec.max_position, options.kv_tokens),
                                .max_tokens = options.kv_tokens})
      .value();
}

}  // namespace

LocalEngine::LocalEngine(const std::filesystem::path& checkpoint, const LocalEngineOptions& options)
    : spec_(read_model_spec(checkpoint).value()), exchange_(fabric_.make_end("router")) {
  weights_ = DenseWeights::load(checkpoint, spec_, options.load, progress_).value();
  const Placement placement = even_split(spec_, options.num_workers, 1);
  EngineOptions engine = engine_options(spec_, options);
  engine.dispatcher.pump_local_workers = [this] {
    bool worked = false;
    for (Member& m : members_) worked |= m.worker->poll();
    return worked;
  };
  engine_ = std::make_unique<Engine>(std::move(engine), spec_, *weights_, *exchange_, make_cache(spec_, options));
  engine_->set_placement(placement);
  for (int i = 0; i < options.num_workers; ++i) {
    const std::string name = "w" + std::to_string(i);
    Member m{fabric_.make_end(name), nullptr};
    m.worker = std::make_unique<Worker>(spec_, *m.exchange, TeamOptions{.num_threads = options.num_threads});
    m.worker->set_store(
        ExpertStore::load(checkpoint, spec_, options.load, placement.experts_of(i), progress_).value());
    m.worker->attach_router("router", exchange_->local_address(), 1, [](Result<void> attached) { attached.value(); });
    engine_->attach_worker(i, name, m.exchange->local_address(), 1);
    members_.push_back(std::move(m));
  }
  thread_ = std::thread([this] { engine_->run(); });
  while (!engine_->serving()) std::this_thread::yield();
}

LocalEngine::~LocalEngine() {
  engine_->stop();
  thread_.join();
}

std::future<Completion> LocalEngine::submit(EngineRequest request) {
  struct Pending {
    Completion completion;
    std::promise<Completion> promise;
  };
  auto pending = std::make_shared<Pending>();
  auto future = pending->promise.get_future();
  const auto append = [](auto& to, auto& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  engine_
      ->submit(std::move(request),
               [pending, append](EngineEvent&& event) {
                 Completion& c = pending->completion;
                 append(c.prompt_logprobs, event.prompt_logprobs);
                 append(c.tokens, event.tokens);
                 append(c.logprobs, event.logprobs);
                 if (!event.finish) return;
                 c.finish = *event.finish;
                 c.error = event.error;
                 pending->promise.set_value(std::move(c));
               })
      .value();
  return future;
}

}  // namespace guildhall
