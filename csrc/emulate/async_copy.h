// cp.async: each copy happens by a coin when it is issued, which shows a buffer overwritten too early, or only when it
// is waited for, which shows a missing wait.
#pragma once

#include <cstdint>

#include "emulate/where.h"

namespace llada::emulate {

struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes, valid;
};

// True: the runtime keeps the copy for later. False: the caller makes it now.
bool defer_copy(const AsyncCopy& copy, const Where& where);
void commit_copies();

// The next copy that must be made for at most `groups` committed groups to be in flight; false if there is none.
bool take_due_copy(unsigned groups, AsyncCopy& copy);

// Every copy, committed or not (cp.async.wait_all).
bool take_any_copy(AsyncCopy& copy);

// Of any thread: the first copy of those issued before its issued-th.
struct PendingCopies;
bool take_copy_before(PendingCopies& pending, unsigned issued, AsyncCopy& copy);

}  // namespace llada::emulate
