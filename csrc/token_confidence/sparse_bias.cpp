#include "token_confidence/sparse_bias.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/check.h"

namespace llada {
namespace {

bool by_token(const SparseBias::Entry& a, const SparseBias::Entry& b) { return a.token < b.token; }

}  // namespace

SparseBias::SparseBias(const ArrayView& tokens, const ArrayView& values, std::int64_t vocabulary) {
  if (!tokens.defined() || tokens.elements() == 0) return;
  stride_ = tokens.size(1) + 1;
  entries_.reserve(tokens.size(0) * stride_);
  for (std::int64_t row = 0; row < tokens.size(0); ++row) {
    for (std::int64_t i = 0; i < tokens.size(1); ++i) {
      const std::int64_t token = tokens.as<std::int64_t>()[row * tokens.stride(0) + i * tokens.stride(1)];
      require("token_confidence", "bias tokens", token >= 0 && token < vocabulary,
              "token ids below " + std::to_string(vocabulary), std::to_string(token));
      entries_.push_back({token, values.as<float>()[row * values.stride(0) + i * values.stride(1)]});
    }
    std::stable_sort(entries_.end() - tokens.size(1), entries_.end(), by_token);
    entries_.push_back({std::numeric_limits<std::int64_t>::max(), 0.0f});
  }
}

const SparseBias::Entry* SparseBias::first_from(std::int64_t row, std::int64_t token) const {
  const Entry* begin = entries_.data() + row * stride_;
  return std::lower_bound(begin, begin + stride_ - 1, Entry{token, 0.0f}, by_token);
}

}  // namespace llada
