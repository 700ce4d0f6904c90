#include "emulate/warp.h"

#include <algorithm>

#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"

namespace llada::emulate {
namespace {

struct ShuffleOperands {
  Shuffle kind;
  std::uint64_t value;
  int argument, width;
  std::uint64_t result;
};

struct VoteOperands {
  std::uint64_t value;
  Reduction kind;
  std::uint32_t result;
};

bool contains(std::uint32_t mask, int lane) { return (mask >> lane & 1) != 0; }

template <class Operands, class Function>
void for_each_lane(std::uint32_t mask, void* const* operands, Function function) {
  for (int lane = 0; lane < static_cast<int>(kWarpSize); ++lane) {
    if (contains(mask, lane)) function(lane, *static_cast<Operands*>(operands[lane]));
  }
}

int source_lane(const ShuffleOperands& s, int lane) {
  const int first = lane / s.width * s.width, position = lane - first;
  switch (s.kind) {
    case Shuffle::kIndex:
      return first + (s.argument & (s.width - 1));
    case Shuffle::kUp:
      return position >= s.argument ? lane - s.argument : lane;
    case Shuffle::kDown:
      return position + s.argument < s.width ? lane + s.argument : lane;
    case Shuffle::kXor:
      return (position ^ s.argument) < s.width ? first + (position ^ s.argument) : lane;
  }
  return lane;
}

void run_shuffle(std::uint32_t mask, void* const* operands) {
  for_each_lane<ShuffleOperands>(mask, operands, [&](int lane, ShuffleOperands& own) {
    const int source = source_lane(own, lane);
    own.result = contains(mask, source) ? static_cast<const ShuffleOperands*>(operands[source])->value : ~0ull;
  });
}

void run_ballot(std::uint32_t mask, void* const* operands) {
  std::uint32_t votes = 0;
  for_each_lane<VoteOperands>(mask, operands, [&](int lane, const VoteOperands& own) {
    votes |= static_cast<std::uint32_t>(own.value) << lane;
  });
  for_each_lane<VoteOperands>(mask, operands, [&](int, VoteOperands& own) { own.result = votes; });
}

void run_match_any(std::uint32_t mask, void* const* operands) {
  for_each_lane<VoteOperands>(mask, operands, [&](int, VoteOperands& own) {
    own.result = 0;
    for_each_lane<VoteOperands>(mask, operands, [&](int lane, const VoteOperands& other) {
      if (other.value == own.value) own.result |= 1u << lane;
    });
  });
}

std::uint32_t combine(Reduction kind, std::uint32_t a, std::uint32_t b) {
  const auto x = static_cast<std::int32_t>(a), y = static_cast<std::int32_t>(b);
  switch (kind) {
    case Reduction::kAddSigned:
      return a + b;
    case Reduction::kMinSigned:
      return static_cast<std::uint32_t>(std::min(x, y));
    case Reduction::kMaxSigned:
      return static_cast<std::uint32_t>(std::max(x, y));
    case Reduction::kMinUnsigned:
      return std::min(a, b);
    case Reduction::kMaxUnsigned:
      return std::max(a, b);
    case Reduction::kAnd:
      return a & b;
    case Reduction::kOr:
      return a | b;
    case Reduction::kXor:
      return a ^ b;
  }
  return a;
}

void run_reduce(std::uint32_t mask, void* const* operands) {
  bool first = true;
  std::uint32_t total = 0;
  for_each_lane<VoteOperands>(mask, operands, [&](int, const VoteOperands& own) {
    const auto value = static_cast<std::uint32_t>(own.value);
    total = first ? value : combine(own.kind, total, value);
    first = false;
  });
  for_each_lane<VoteOperands>(mask, operands, [&](int, VoteOperands& own) { own.result = total; });
}

void run_nothing(std::uint32_t, void* const*) {}

// The meeting that this lane belongs to, opened if it is the first.
Rendezvous& find(Warp& warp, std::uint32_t mask, WarpOperation operation, const Where& where) {
  for (std::uint32_t open = warp.open; open != 0; open &= open - 1) {
    Rendezvous& meeting = warp.rendezvous[std::countr_zero(open)];
    if ((meeting.mask & mask) == 0) continue;
    const auto line = static_cast<unsigned>(where.place.line());
    const auto other_line = static_cast<unsigned>(meeting.where.place.line());
    if (meeting.mask != mask || meeting.operation != operation || other_line != line) {
      fail("divergent warp: lanes meet in %s (line %u, mask %08x) and in %s (line %u, mask %08x)",
           meeting.where.operation, other_line, meeting.mask, where.operation, line, mask);
    }
    return meeting;
  }
  const int free = std::countr_one(warp.open);
  warp.open |= 1u << free;
  Rendezvous& meeting = warp.rendezvous[free];
  meeting.mask = mask;
  meeting.arrived = 0;
  meeting.operation = operation;
  meeting.where = where;
  return meeting;
}

}  // namespace

void warp_meet(std::uint32_t mask, WarpOperation operation, void* operands, const Where& where) {
  Thread* self = current;
  if (!contains(mask, static_cast<int>(self->lane))) {
    fail("%s, line %u: lane %u is not in its own mask %08x", where.operation, static_cast<unsigned>(where.place.line()),
         self->lane, mask);
  }
  Warp& warp = self->block->warps[self->warp];
  Rendezvous& meeting = find(warp, mask, operation, where);
  meeting.operands[self->lane] = operands;
  meeting.threads[self->lane] = self;
  meeting.arrived |= 1u << self->lane;
  if (meeting.arrived != mask) {
    wait_here(where);
    return;
  }
  operation(mask, meeting.operands);
  warp.open &= ~(1u << (&meeting - warp.rendezvous));
  for (std::uint32_t others = mask & ~(1u << self->lane); others != 0; others &= others - 1) {
    make_ready(meeting.threads[std::countr_zero(others)]);
  }
}

void warp_sync(std::uint32_t mask, const Where& where) {
  const char* order = &current->block->warps[current->warp].order;
  release(order);
  warp_meet(mask, &run_nothing, nullptr, where);
  acquire(order);
}

std::uint64_t warp_shuffle(std::uint32_t mask, Shuffle kind, std::uint64_t value, int argument, int width,
                           const Where& where) {
  ShuffleOperands operands{kind, value, argument, width, 0};
  warp_meet(mask, &run_shuffle, &operands, where);
  return operands.result;
}

std::uint32_t warp_ballot(std::uint32_t mask, bool predicate, const Where& where) {
  VoteOperands operands{predicate, {}, 0};
  warp_meet(mask, &run_ballot, &operands, where);
  return operands.result;
}

std::uint32_t warp_match_any(std::uint32_t mask, std::uint64_t value, const Where& where) {
  VoteOperands operands{value, {}, 0};
  warp_meet(mask, &run_match_any, &operands, where);
  return operands.result;
}

std::uint32_t warp_reduce(std::uint32_t mask, Reduction kind, std::uint32_t value, const Where& where) {
  VoteOperands operands{value, kind, 0};
  warp_meet(mask, &run_reduce, &operands, where);
  return operands.result;
}

}  // namespace llada::emulate
