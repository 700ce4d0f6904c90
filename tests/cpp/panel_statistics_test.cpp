// What token_confidence leaves out must not have mattered: where noise could win, and which keys are the largest, on
// every instruction set beside the plain definition.
#include "token_confidence/panel_statistics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "common/isa.h"
#include "isas.h"
#include "token_confidence/best_candidates.h"
#include "token_confidence/choice_key.h"
#include "token_confidence/noised_choice.h"

namespace llada {
namespace {

void expect(bool condition, const char* what, Isa isa) {
  if (condition) return;
  std::fprintf(stderr, "%s: %s\n", isa_name(isa), what);
  std::exit(1);
}

// Values to reach of about what the best of the tokens' noise gives, so that both answers come up.
void noise_that_wins_is_never_left_out(Isa isa) {
  const PanelStatistics& statistics = select_panel_statistics(isa);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  int reached = 0, left_out = 0;
  for (int round = 0; round < 20000; ++round) {
    const double temperature = std::exp(normal(random));
    const std::int64_t first = random() % 1000 * kPanelColumns;
    NoiseLanes noise{};
    float highest[kRowLanes];
    double best[kRowLanes];
    for (int r = 0; r < kRowLanes; ++r) {
      const GumbelStream stream(round, r);
      highest[r] = 8.0f * normal(random);
      best[r] = -HUGE_VAL;
      for (int c = 0; c < kPanelColumns; ++c) {
        best[r] = std::max(best[r], highest[r] + temperature * GumbelStream::noise(stream.bits(first + c)));
      }
      noise.start[r] = stream.counter(0);
      noise.scale[r] = static_cast<float>(1.0 / temperature);
      noise.value[r] = static_cast<float>(best[r] + temperature * 0.5 * normal(random));
    }
    std::uint64_t lowest[kRowLanes];
    const std::uint32_t asked = random() & 0xffff;
    const std::uint32_t bits = statistics.may_reach(noise, highest, first, asked, lowest);
    expect((bits & ~asked) == 0, "rows that were not asked for", isa);
    for (int r = 0; r < kRowLanes; ++r) {
      if ((asked >> r & 1) == 0) continue;
      const bool found = bits >> r & 1;
      expect(found || best[r] < noise.value[r], "noise that wins is left out", isa);
      reached += found;
      left_out += !found;
      if (!found) continue;
      const double limit = temperature * GumbelStream::noise_limit(lowest[r]);
      expect(best[r] <= highest[r] + limit, "noise above its limit", isa);
    }
  }
  expect(reached > 1000 && left_out > 1000, "only one answer has come up", isa);
}

void nothing_found_reaches_anything(Isa isa) {
  NoiseLanes noise{};
  float highest[kRowLanes];
  for (int r = 0; r < kRowLanes; ++r) {
    noise.start[r] = GumbelStream(1, r).counter(0);
    noise.value[r] = r % 2 == 0 ? -INFINITY : NAN;
    noise.scale[r] = 1.0f;
    highest[r] = r < 4 ? -INFINITY : 1.0f;
  }
  std::uint64_t lowest[kRowLanes];
  const std::uint32_t all = (std::uint32_t{1} << kRowLanes) - 1;
  expect(select_panel_statistics(isa).may_reach(noise, highest, 0, all, lowest) == all, "a row left out", isa);
}

void keys_are_split_at_the_pivot(Isa isa) {
  const PanelStatistics& statistics = select_panel_statistics(isa);
  std::mt19937_64 random(2);
  for (std::int64_t count = 0; count < 70; ++count) {
    std::vector<std::uint64_t> keys(count);
    for (std::uint64_t& key : keys) key = random();
    const std::uint64_t pivot = count > 0 ? keys[count / 2] : 0;
    std::vector<std::uint64_t> kept(count + 8), below(count + 8), wanted_kept, wanted_below;
    for (const std::uint64_t key : keys) (key >= pivot ? wanted_kept : wanted_below).push_back(key);
    const std::int64_t num_kept = statistics.split_keys(keys.data(), count, pivot, kept.data(), below.data());
    kept.resize(num_kept);
    below.resize(count - num_kept);
    expect(kept == wanted_kept && below == wanted_below, "keys split otherwise", isa);
  }
}

// Ties in the logit, capacities around what is found, ascending and descending, which a pivot from the ends is bad for.
void candidates_are_the_largest(Isa isa) {
  const PanelStatistics& statistics = select_panel_statistics(isa);
  std::mt19937 random(3);
  for (const std::int64_t capacity : {2, 7, 50, 256, 3000}) {
    for (const int order : {0, 1, 2, 3}) {
      std::vector<float> logits(kPanelColumns * 61);
      for (float& logit : logits) logit = static_cast<float>(static_cast<int>(random() % (order == 3 ? 3 : 4000)));
      if (order == 1) std::sort(logits.begin(), logits.end());
      if (order == 2) std::sort(logits.rbegin(), logits.rend());
      BestCandidates candidates;
      candidates.start(capacity, statistics);
      BestCandidates::Staged staged;
      staged.count = 0;
      std::vector<std::uint64_t> keys;
      for (std::size_t token = 0; token < logits.size(); token += kPanelColumns) {
        const auto first = static_cast<std::int64_t>(token);
        candidates.offer(logits.data() + token, candidates.least(), first, staged);
        for (int c = 0; c < kPanelColumns; ++c) keys.push_back(choice_key(logits[token + c], first + c));
      }
      candidates.take(staged);
      candidates.finish();
      std::sort(keys.rbegin(), keys.rend());
      keys.resize(std::min<std::size_t>(keys.size(), capacity));
      for (const std::int64_t count : {1, 2, 32, 5000}) {
        const auto found = candidates.largest(count);
        const std::size_t wanted = std::min<std::size_t>(keys.size(), count);
        expect(std::equal(found.begin(), found.end(), keys.begin(), keys.begin() + wanted), "other candidates", isa);
      }
    }
  }
}

}  // namespace
}  // namespace llada

int main() {
  using namespace llada;
  for (const Isa isa : tested_isas()) {
    noise_that_wins_is_never_left_out(isa);
    nothing_found_reaches_anything(isa);
    keys_are_split_at_the_pivot(isa);
    candidates_are_the_largest(isa);
  }
  return 0;
}
