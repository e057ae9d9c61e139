#include "deploy/programs/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "router/balance/predict.h"

namespace guildhall {
namespace {

constexpr int kShades = 10;  // s0 .. s10
constexpr int kLabelWidth = 64, kTop = 18;

// One hue in ten opacities over the page's own background: readable in light and dark.
constexpr std::string_view kHead =
    R"(<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --faint: #ddd; --heat: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e6e6; --faint: #3a3f44; --heat: #fb923c; } }
body { background: var(--page); color: var(--text); font: 14px/1.45 system-ui, sans-serif; margin: 2em; }
figure { margin: 0 0 1.5em; overflow-x: auto; }
text { fill: var(--text); font: 10px system-ui, sans-serif; }
rect { fill: var(--heat); stroke: var(--faint); stroke-width: .5; }
)";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

int shade(double part) { return std::clamp(static_cast<int>(std::lround(part * kShades)), 0, kShades); }

class Page {
 public:
  explicit Page(const HeatMapInput& input) : input_(input) {}

  std::string write() {
    add("<!doctype html>\n<html lang=\"en\"><title>{}: load of experts</title>\n{}", escaped(input_.title),
        kHead);
    for (int s = 0; s <= kShades; ++s)
      add(".s{} {{ fill-opacity: {:.2f}; }}\n", s, static_cast<double>(s) / kShades);
    add("</style>\n<h1>{}: load of experts by worker</h1>\n", escaped(input_.title));
    const int64_t layer = least_even_layer();
    add("<p>Tokens of {} steps. Layers: a worker's tokens, divided by its speed, against the layer's mean; "
        "full "
        "colour is twice the mean. Experts: each replica's tokens in layer {}, the least even one under the "
        "first "
        "placement; full colour is the busiest replica.</p>\n",
        input_.loads.num_steps, layer);
    for (const HeatMapInput::Placed& placed : input_.placements) {
      const Prediction prediction = predict(input_.loads, placed.placement, input_.workers, {.pair_ns = 1});
      add("<h2>{}</h2>\n<p>Balancedness over the whole trace: {:.3f} at least, {:.3f} in the mean.</p>\n",
          escaped(placed.name), prediction.min_balancedness(), prediction.mean_balancedness());
      add_layers(placed.placement);
      add_experts(placed.placement, layer);
    }
    return std::move(html_);
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(html_), format, std::forward<Args>(args)...);
  }

  std::vector<double> relative_loads(const ReplicaPlacement& placement, int64_t layer) const {
    std::vector<double> part_w =
        worker_loads(input_.loads.load_le[static_cast<size_t>(layer)], placement.layer(layer)).tokens_w;
    const double total = std::accumulate(part_w.begin(), part_w.end(), 0.0);
    const double speed = std::accumulate(input_.workers.speed_w.begin(), input_.workers.speed_w.end(), 0.0);
    for (size_t w = 0; w < part_w.size(); ++w)
      part_w[w] = total > 0 ? part_w[w] / input_.workers.speed_w[w] / (total / speed) : 0;
    return part_w;
  }

  int64_t least_even_layer() const {
    const ReplicaPlacement& first = input_.placements.front().placement;
    int64_t found = -1;
    double most = -1;
    for (int64_t layer = 0; layer < first.num_layers(); ++layer) {
      if (!first.has_experts(layer)) continue;
      const std::vector<double> part_w = relative_loads(first, layer);
      const double slowest = *std::max_element(part_w.begin(), part_w.end());
      if (slowest > most) found = layer, most = slowest;
    }
    return found;
  }

  void add_layers(const ReplicaPlacement& placement) {
    constexpr int kWidth = 18, kHeight = 10;
    const auto num_workers = static_cast<int>(placement.num_workers());
    int rows = 0;
    for (int64_t layer = 0; layer < placement.num_layers(); ++layer) rows += placement.has_experts(layer);
    add("<figure><svg width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"load of layers by worker\">\n",
        kLabelWidth + num_workers * kWidth, kTop + rows * kHeight);
    for (int w = 0; w < num_workers; ++w)
      add("<text x=\"{}\" y=\"12\">{}</text>\n", kLabelWidth + w * kWidth,
          escaped(std::string_view(input_.worker_names[static_cast<size_t>(w)]).substr(0, 3)));
    int y = kTop;
    for (int64_t layer = 0; layer < placement.num_layers(); ++layer) {
      if (!placement.has_experts(layer)) continue;
      add("<text x=\"0\" y=\"{}\">layer {}</text>\n", y + kHeight - 1, layer);
      const std::vector<double> part_w = relative_loads(placement, layer);
      for (int w = 0; w < num_workers; ++w)
        add("<rect class=\"s{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>layer {}, {}: {:.2f} of "
            "the "
            "mean</title></rect>\n",
            shade(part_w[static_cast<size_t>(w)] / 2), kLabelWidth + w * kWidth, y, kWidth, kHeight, layer,
            escaped(input_.worker_names[static_cast<size_t>(w)]), part_w[static_cast<size_t>(w)]);
      y += kHeight;
    }
    add("</svg></figure>\n");
  }

  void add_experts(const ReplicaPlacement& placement, int64_t layer) {
    constexpr int kCell = 10;
    const auto& load_e = input_.loads.load_le[static_cast<size_t>(layer)];
    const auto share = [&](int64_t e) {
      return static_cast<double>(load_e[static_cast<size_t>(e)].tokens()) /
             static_cast<double>(placement.replicas(layer, e).size());
    };
    double busiest = 0;
    for (int64_t e = 0; e < placement.num_experts(); ++e) busiest = std::max(busiest, share(e));
    add("<figure><svg width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"load of layer {}'s experts by "
        "worker\">\n",
        kLabelWidth + placement.num_experts() * kCell, kTop + placement.num_workers() * kCell, layer);
    add("<text x=\"0\" y=\"12\">layer {}: experts 0 to {}, left to right</text>\n", layer,
        placement.num_experts() - 1);
    for (int64_t w = 0; w < placement.num_workers(); ++w)
      add("<text x=\"0\" y=\"{}\">{}</text>\n", kTop + (w + 1) * kCell - 1,
          escaped(std::string_view(input_.worker_names[static_cast<size_t>(w)]).substr(0, 10)));
    for (int64_t e = 0; e < placement.num_experts(); ++e)
      for (const Replica& replica : placement.replicas(layer, e))
        add("<rect class=\"s{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>expert {} on {}: {:.0f} "
            "tokens</title></rect>\n",
            shade(busiest > 0 ? share(e) / busiest : 0), kLabelWidth + e * kCell,
            kTop + replica.worker * kCell, kCell, kCell, e,
            escaped(input_.worker_names[static_cast<size_t>(replica.worker)]), share(e));
    add("</svg></figure>\n");
  }

  const HeatMapInput& input_;
  std::string html_;
};

}  // namespace

std::string heat_map_html(const HeatMapInput& input) { return Page(input).write(); }

}  // namespace guildhall
