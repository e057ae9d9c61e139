#include "experts/expert_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/parallel_rows.h"
#include "kernels/permute.h"
#include "kernels/row_codec.h"

namespace guildhall {
namespace {

template <class T>
std::span<T> row_span(View2<T> rows, int64_t r) {
  return {rows.row(r), static_cast<size_t>(rows.cols)};
}

bool is_reduced(const ExpertJob& job) { return combine_of(job.dispatch->header) == Combine::reduced; }

// Where a job's rows begin among those of others.
int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

ExpertRunner::ExpertRunner(const ModelSpec& spec, Ops& ops)
    : spec_(spec),
      ops_(ops),
      experts_(spec),
      offset_e_(static_cast<size_t>(spec.moe.num_experts + 1)),
      pairs_(ops, {64, 64}),
      index_(ops, {64}) {}

Result<void> ExpertRunner::check(const DispatchView& dispatch) const {
  const FrameHeader& header = dispatch.header;
  const std::span<const ExpertWeightView> experts_e = experts_.of_layer(header.layer);
  if (experts_e.empty())
    return Status{Code::not_found, fmt::format("layer {} has no experts here", header.layer)};
  if (header.hidden != spec_.hidden)
    return Status{Code::invalid_argument, fmt::format("rows of {} elements; the model's hidden size is {}",
                                                      header.hidden, spec_.hidden)};
  for (const DispatchPair& pair : dispatch.pairs)
    if (pair.expert >= experts_e.size() || !holds(header.layer, pair.expert))
      return Status{Code::not_found, fmt::format("layer {} expert {} is not held here (placement version {})",
                                                 header.layer, pair.expert, header.placement_version)};
  return {};
}

bool ExpertRunner::holds(int64_t layer, int64_t expert) const {
  if (resident_) return resident_->holds(layer, expert);
  return !experts_.of_layer(layer)[static_cast<size_t>(expert)].gate_fh.empty();
}

void ExpertRunner::offload(std::shared_ptr<ColdExperts> cold, const ExpertsOfLayer& experts_l) {
  resident_.reset();
  experts_ = ExpertTable(spec_);
  resident_ = std::make_unique<ResidentExperts>(spec_, experts_, std::move(cold));
  resident_->hold(experts_l);
}

std::vector<PlacedExpert> ExpertRunner::remove(const ExpertsOfLayer& experts_l) {
  if (!resident_) return experts_.remove(experts_l);
  resident_->drop(experts_l);
  return {};
}

void ExpertRunner::expect(int64_t layer, std::span<const uint16_t> experts) {
  if (resident_) resident_->expect(layer, experts);
}

void ExpertRunner::advance() {
  if (resident_) resident_->advance();
}

void ExpertRunner::run(std::span<const ExpertJob> jobs) {
  const int64_t num_rows = gather_pairs(jobs);
  const auto num_pairs = static_cast<int64_t>(expert_p_.size());
  position_p_.resize(expert_p_.size());
  group_by_expert_cpu(expert_p_, offset_e_, position_p_);

  pairs_.upload({row_p_, position_p_});
  const View2<float> grouped_ph = grouped_.view(num_pairs, spec_.hidden);
  ops_.permute(rows(jobs, num_rows), pairs_[0], pairs_[1], grouped_ph);
  const View2<float> result_ph = result_.view(num_pairs, spec_.hidden);
  const View2<float> hidden_pf = hidden_.view(num_pairs, spec_.moe.expert_width);
  const int64_t layer = jobs.front().dispatch->header.layer;
  failure_j_.clear();
  if (resident_) {
    run_resident(layer, grouped_ph, hidden_pf, result_ph);
    find_failures(jobs);
  } else {
    ops_.expert_ffn(grouped_ph, offset_e_, experts_.of_layer(layer), hidden_pf, result_ph);
    count_activations(layer, {0, offset_e_.size() - 1});
  }

  if (!ops_.memory().is_host()) encode_results(jobs, result_ph);
  size_t first_pair = 0;
  for (size_t j = 0; j < jobs.size(); ++j) {
    const ExpertJob& job = jobs[j];
    const auto mine_p = std::span<const int32_t>(position_p_).subspan(first_pair, job.dispatch->pairs.size());
    first_pair += mine_p.size();
    if (failure(j)) continue;
    if (job.is_tail)
      write_tail(job, result_ph, first_pair - mine_p.size());
    else if (is_reduced(job))
      answer_rows(job, result_ph, mine_p);
    else
      answer_pairs(job, result_ph, mine_p);
  }
  if (std::ranges::any_of(jobs, &ExpertJob::is_tail)) fence_.wait(result_ph.data, "wait tails");
}

// Lists every job's pairs, rows counted on from job to job. Returns the number of rows.
int64_t ExpertRunner::gather_pairs(std::span<const ExpertJob> jobs) {
  expert_p_.clear(), row_p_.clear();
  int64_t num_rows = 0;
  for (const ExpertJob& job : jobs) {
    GH_CHECK(job.dispatch->header.layer == jobs.front().dispatch->header.layer);
    for (const DispatchPair& pair : job.dispatch->pairs) {
      expert_p_.push_back(pair.expert);
      row_p_.push_back(static_cast<int32_t>(num_rows + pair.row));
    }
    num_rows += job.dispatch->header.num_rows;
  }
  return num_rows;
}

// The FFN, range by range as experts are in memory. A row's bits are those of a run of all at once (on a GPU:
// of the same kernel, which the number of rows chooses).
void ExpertRunner::run_resident(int64_t layer, View2<const float> grouped_ph, View2<float> hidden_pf,
                                View2<float> result_ph) {
  resident_->begin_run(layer, offset_e_);
  for (ExpertRange r = resident_->next(); !r.empty(); r = resident_->next()) {
    const int32_t first = offset_e_[r.begin], num = offset_e_[r.end] - first;
    offset_r_.clear();
    for (size_t e = r.begin; e <= r.end; ++e) offset_r_.push_back(offset_e_[e] - first);
    ops_.expert_ffn(grouped_ph.sub_rows(first, num), offset_r_,
                    experts_.of_layer(layer).subspan(r.begin, r.end - r.begin),
                    hidden_pf.sub_rows(first, num), result_ph.sub_rows(first, num));
    count_activations(layer, r);
  }
}

// Jobs with pairs of an expert that could not be brought in.
void ExpertRunner::find_failures(std::span<const ExpertJob> jobs) {
  if (resident_->missing().empty()) return;
  failure_j_.resize(jobs.size());
  for (size_t j = 0; j < jobs.size(); ++j)
    for (const ResidentExperts::Missing& missing : resident_->missing())
      if (std::ranges::find(jobs[j].dispatch->pairs, missing.expert, [](const DispatchPair& pair) {
            return int64_t{pair.expert};
          }) != jobs[j].dispatch->pairs.end())
        failure_j_[j] =
            Status{Code::unavailable,
                   fmt::format("layer {} expert {} could not be brought into memory: {}",
                               jobs[j].dispatch->header.layer, missing.expert, missing.why.message)};
}

const Status* ExpertRunner::failure(size_t job_idx) const {
  return job_idx < failure_j_.size() && failure_j_[job_idx] ? &*failure_j_[job_idx] : nullptr;
}

void ExpertRunner::count_activations(int64_t layer, ExpertRange experts) {
  for (size_t e = experts.begin; e < experts.end; ++e) {
    if (offset_e_[e + 1] == offset_e_[e]) continue;
    ++run_sums_.activations;
    run_sums_.weight_bytes += static_cast<uint64_t>(experts_.bytes_of(layer, static_cast<int64_t>(e)));
  }
}

// The dispatched rows of all jobs, decoded, on the device.
View2<float> ExpertRunner::rows(std::span<const ExpertJob> jobs, int64_t num_rows) {
  const View2<float> x_rh = x_.view(num_rows, spec_.hidden);
  if (!ops_.memory().is_host()) {
    upload_rows(jobs, x_rh);
    return x_rh;
  }
  int64_t row = 0;
  for (const ExpertJob& job : jobs) {
    decode_rows(*job.dispatch, x_rh.sub_rows(row, job.dispatch->header.num_rows));
    row += job.dispatch->header.num_rows;
  }
  return x_rh;
}

// All in one transfer, but those that are there; each job's decoded as it says.
void ExpertRunner::upload_rows(std::span<const ExpertJob> jobs, View2<float> x_rh) {
  const auto bytes_by_host = [](const ExpertJob& job) {
    return job.dispatch->rows_on_device ? 0 : aligned(static_cast<int64_t>(job.dispatch->rows.size()));
  };
  int64_t bytes = 0;
  for (const ExpertJob& job : jobs) bytes += bytes_by_host(job);
  const View2<std::byte> host = dispatched_.host.view(1, bytes);
  int64_t at = 0;
  for (const ExpertJob& job : jobs) {
    const std::span<const std::byte> rows = job.dispatch->rows;
    if (job.dispatch->rows_on_device || rows.empty()) continue;
    std::byte* const to = host.data + at;
    const auto whole = static_cast<int64_t>(rows.size());
    parallel_rows(ops_.team(), whole, 1, [&](int64_t begin, int64_t end) {
      std::memcpy(to + begin, rows.data() + begin, static_cast<size_t>(end - begin));
    });
    at += aligned(whole);
  }
  const std::byte* there = bytes > 0 ? dispatched_.host.upload(host, dispatched_.there).data : nullptr;
  int64_t row = 0;
  for (const ExpertJob& job : jobs) {
    const FrameHeader& header = job.dispatch->header;
    const std::byte* rows = job.dispatch->rows_on_device ? job.dispatch->rows.data() : there;
    ops_.decode_rows(codec_of(header), rows, x_rh.sub_rows(row, header.num_rows));
    there += bytes_by_host(job);
    row += header.num_rows;
  }
}

// Rows of the device as they travel, on their way to the host.
View2<const std::byte> ExpertRunner::encode(Codec codec, View2<const float> x_th, Travelling& as) {
  const auto bytes = static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(x_th.cols)));
  const View2<std::byte> there = as.there.view(x_th.rows, bytes);
  ops_.encode_rows(codec, x_th, there.data);
  return as.host.download(there);
}

// For the exact answers, and waited for.
void ExpertRunner::encode_results(std::span<const ExpertJob> jobs, View2<const float> result_ph) {
  std::array<bool, kNumCodecs> is_asked_c{};
  for (const ExpertJob& job : jobs)
    if (!is_reduced(job) && !job.is_tail)
      is_asked_c[static_cast<size_t>(answer_shape(job.dispatch->header).codec)] = true;
  for (size_t c = 0; c < kNumCodecs; ++c)
    if (is_asked_c[c]) results_c_[c].rows = encode(static_cast<Codec>(c), result_ph, results_c_[c]);
  for (size_t c = 0; c < kNumCodecs; ++c)
    if (is_asked_c[c]) results_c_[c].host.wait("wait answers");
}

void ExpertRunner::decode_rows(const DispatchView& dispatch, View2<float> x_rh) {
  parallel_rows(ops_.team(), x_rh.rows, x_rh.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      decode_row(codec_of(dispatch.header), dispatch.row(static_cast<size_t>(r)), row_span(x_rh, r));
  });
}

// An exact combine: the row of each pair, in the pairs' order.
void ExpertRunner::answer_pairs(const ExpertJob& job, View2<const float> result_ph,
                                std::span<const int32_t> position_p) {
  const FrameShape shape = answer_shape(job.dispatch->header);
  const size_t bytes = row_bytes(shape.codec, shape.hidden);
  GH_CHECK(job.rows_out.size() == shape.num_rows * bytes);
  const bool is_host = ops_.memory().is_host();
  const View2<const std::byte> encoded = results_c_[static_cast<size_t>(shape.codec)].rows;
  parallel_rows(ops_.team(), shape.num_rows, result_ph.cols, [&](int64_t begin, int64_t end) {
    for (auto p = static_cast<size_t>(begin); p < static_cast<size_t>(end); ++p) {
      std::byte* const out = job.rows_out.data() + p * bytes;
      if (is_host)
        encode_row(shape.codec, row_span(result_ph, position_p[p]), out);
      else
        std::memcpy(out, encoded.row(position_p[p]), bytes);
    }
  });
}

// Either combine's rows, encoded where they go. first_pair: of the job, among all jobs'.
void ExpertRunner::write_tail(const ExpertJob& job, View2<const float> result_ph, size_t first_pair) {
  const FrameShape shape = answer_shape(job.dispatch->header);
  GH_CHECK(job.rows_out.size() == shape.num_rows * row_bytes(shape.codec, shape.hidden));
  const size_t num_pairs = job.dispatch->pairs.size();
  if (is_reduced(job)) {
    const auto position_p = std::span<const int32_t>(position_p_).subspan(first_pair, num_pairs);
    return ops_.encode_rows(shape.codec, sum_rows(job, result_ph, position_p), job.rows_out.data());
  }
  const View2<float> gathered_ph = gathered_.view(static_cast<int64_t>(num_pairs), result_ph.cols);
  ops_.gather_rows(result_ph, pairs_[1].subspan(first_pair, num_pairs), gathered_ph);
  ops_.encode_rows(shape.codec, gathered_ph, job.rows_out.data());
}

// A reduced combine: the sum of each dispatched row's pairs.
void ExpertRunner::answer_rows(const ExpertJob& job, View2<const float> result_ph,
                               std::span<const int32_t> position_p) {
  const FrameShape shape = answer_shape(job.dispatch->header);
  const size_t bytes = row_bytes(shape.codec, shape.hidden);
  GH_CHECK(job.rows_out.size() == shape.num_rows * bytes);
  const View2<const float> sum_rh = sum_rows(job, result_ph, position_p);
  if (!ops_.memory().is_host()) {
    const View2<const std::byte> rows = encode(shape.codec, sum_rh, sums_);
    sums_.host.wait("wait answers");
    std::copy_n(rows.data, job.rows_out.size(), job.rows_out.data());
    return;
  }
  parallel_rows(ops_.team(), shape.num_rows, spec_.hidden, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      encode_row(shape.codec, row_span(sum_rh, r), job.rows_out.data() + static_cast<size_t>(r) * bytes);
  });
}

// Each dispatched row's pairs, weighted and summed in gate order, on the device; a row without pairs is 0.
View2<float> ExpertRunner::sum_rows(const ExpertJob& job, View2<const float> result_ph,
                                    std::span<const int32_t> position_p) {
  const size_t num_rows = job.dispatch->header.num_rows;
  const std::span<const DispatchPair> pairs = job.dispatch->pairs;
  count_r_.assign(num_rows, 0);
  size_t num_k = 1;
  for (const DispatchPair& pair : pairs) num_k = std::max<size_t>(num_k, ++count_r_[pair.row]);
  const auto rows = static_cast<int64_t>(num_rows), cols = static_cast<int64_t>(num_k);
  const View2<float> weight_rk = host_weight_.view(rows, cols);
  index_rk_.assign(num_rows * num_k, -1);
  std::fill_n(weight_rk.data, rows * cols, 0.0f);
  count_r_.assign(num_rows, 0);
  for (size_t p = 0; p < pairs.size(); ++p) {  // a row's pairs come in gate order
    const size_t at = pairs[p].row * num_k + count_r_[pairs[p].row]++;
    index_rk_[at] = position_p[p];
    weight_rk.data[at] = pairs[p].weight;
  }
  index_.upload({index_rk_});
  const View2<float> sum_rh = sum_.view(rows, spec_.hidden);
  ops_.fill_zero(sum_rh);
  ops_.combine(result_ph, {index_[0].data(), rows, cols}, host_weight_.upload(weight_rk, weight_), sum_rh);
  return sum_rh;
}

}  // namespace guildhall
