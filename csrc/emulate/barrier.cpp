#include "emulate/barrier.h"

#include "emulate/sanitizer.h"
#include "emulate/scheduler.h"

namespace llada::emulate {
namespace {

// The hardware's barrier is a warp's: its lanes cannot come from two places of the code.
void check_convergence(Barrier& barrier, const Where& where) {
  const unsigned warp = current->warp;
  const unsigned line = where.place.line();
  if (barrier.lanes[warp] != 0 && barrier.line[warp] != line) {
    fail("%s: divergent, lanes of one warp come from line %u and line %u", where.operation, barrier.line[warp], line);
  }
  barrier.line[warp] = line;
  if (++barrier.lanes[warp] == kWarpSize) barrier.lanes[warp] = 0;
}

void complete(Barrier& barrier) {
  barrier.result[barrier.phase] = barrier.votes;
  barrier.votes = 0;
  barrier.arrived = 0;
  barrier.phase ^= 1;
  for (unsigned& lanes : barrier.lanes) lanes = 0;
  make_ready_all(barrier.waiting);
}

Barrier& find(unsigned number, const Where& where) {
  if (number >= kBarriers) fail("%s: barrier %u, there are %u", where.operation, number, kBarriers);
  return current->block->barriers[number];
}

void arrive(Barrier& barrier, unsigned threads, const Where& where) {
  const Block& block = *current->block;
  const auto needed = threads == kWholeBlock ? static_cast<unsigned>(block.threads.size()) : threads;
  if (threads != kWholeBlock && (threads % kWarpSize != 0 || threads > block.threads.size())) {
    fail("%s: %u threads, expected a multiple of the warp's 32 of at most the block's %zu", where.operation, threads,
         block.threads.size());
  }
  if (threads == kWholeBlock && block.exited != 0) {
    fail("%s: %u threads of the block have exited", where.operation, block.exited);
  }
  if (barrier.arrived != 0 && barrier.expected != needed) {
    fail("%s: threads disagree on the number of threads, %u and %u", where.operation, barrier.expected, needed);
  }
  check_convergence(barrier, where);
  barrier.expected = needed;
  release(&barrier.order[barrier.phase]);
  if (++barrier.arrived == needed) complete(barrier);
}

// Returns the phase that ended.
unsigned sync(Barrier& barrier, unsigned threads, const Where& where) {
  const unsigned phase = barrier.phase;
  arrive(barrier, threads, where);
  if (barrier.phase == phase) {
    current->next_waiting = barrier.waiting;
    barrier.waiting = current;
    wait_here(where);
  }
  acquire(&barrier.order[phase]);
  return phase;
}

}  // namespace

void barrier_sync(unsigned number, unsigned threads, const Where& where) { sync(find(number, where), threads, where); }

void barrier_arrive(unsigned number, unsigned threads, const Where& where) {
  arrive(find(number, where), threads, where);
}

int barrier_vote(Vote vote, int predicate, const Where& where) {
  Barrier& barrier = current->block->barriers[0];
  barrier.votes += predicate != 0;
  const unsigned phase = sync(barrier, kWholeBlock, where);
  const int count = barrier.result[phase];
  if (vote == Vote::kCount) return count;
  return vote == Vote::kOr ? count > 0 : count == static_cast<int>(current->block->threads.size());
}

}  // namespace llada::emulate
