// __syncthreads and the named barriers bar.sync / bar.arrive.
#pragma once

#include "emulate/where.h"

namespace llada::emulate {

inline constexpr unsigned kWholeBlock = 0;

enum class Vote { kCount, kAnd, kOr };

// Threads of one warp must come from one place; no thread of the block may have exited if all are expected.
void barrier_sync(unsigned barrier, unsigned threads, const Where& where);
void barrier_arrive(unsigned barrier, unsigned threads, const Where& where);

// __syncthreads_count, __syncthreads_and, __syncthreads_or.
int barrier_vote(Vote vote, int predicate, const Where& where);

}  // namespace llada::emulate
