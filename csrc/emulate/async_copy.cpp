#include "emulate/async_copy.h"

#include <cstdint>

#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"

namespace llada::emulate {
namespace {

// Copies are kept in the order of issue, so that those due are always the first.
template <class Predicate>
bool take_first(PendingCopies& pending, AsyncCopy& copy, Predicate due) {
  acquire(&pending.order);
  if (pending.count == 0) return false;
  const PendingCopy& first = pending.entries[pending.head % kMaxPendingCopies];
  if (!due(first)) return false;
  copy = first.copy;
  ++pending.head;
  --pending.count;
  return true;
}

}  // namespace

bool defer_copy(const AsyncCopy& copy, const Where& where) {
  const auto to = reinterpret_cast<std::uintptr_t>(copy.to), from = reinterpret_cast<std::uintptr_t>(copy.from);
  if (to % copy.bytes != 0 || from % copy.bytes != 0) {
    fail("%s, line %u: an address is not aligned to %u bytes", where.operation,
         static_cast<unsigned>(where.place.line()), copy.bytes);
  }
  if (copy.valid > copy.bytes) fail("%s: %u valid bytes of %u", where.operation, copy.valid, copy.bytes);
  if (coin()) return false;
  PendingCopies& pending = current->copies;
  if (pending.count == kMaxPendingCopies) fail("%s: more than %u in flight", where.operation, kMaxPendingCopies);
  pending.entries[(pending.head + pending.count++) % kMaxPendingCopies] = {copy, pending.group, pending.issued++};
  return true;
}

void commit_copies() { ++current->copies.group; }

bool take_due_copy(unsigned groups, AsyncCopy& copy) {
  PendingCopies& pending = current->copies;
  const unsigned group = pending.group;
  return take_first(pending, copy, [=](const PendingCopy& entry) { return entry.group + groups < group; });
}

bool take_any_copy(AsyncCopy& copy) {
  return take_first(current->copies, copy, [](const PendingCopy&) { return true; });
}

bool take_copy_before(PendingCopies& pending, unsigned issued, AsyncCopy& copy) {
  return take_first(pending, copy, [=](const PendingCopy& entry) { return entry.issued < issued; });
}

}  // namespace llada::emulate
