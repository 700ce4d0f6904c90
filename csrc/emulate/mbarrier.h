// mbarrier: a barrier in 8 bytes of shared memory that counts arrivals and bytes of asynchronous copies. A phase ends
// when no arrival is pending and the bytes expected equal the bytes that came.
#pragma once

#include <cstdint>

#include "emulate/where.h"

namespace llada::emulate {

struct Thread;

void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, const Where& where);
void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes, const Where& where);
void mbarrier_expect(std::uint64_t* barrier, unsigned bytes, const Where& where);
bool mbarrier_test(std::uint64_t* barrier, unsigned parity, const Where& where);
void mbarrier_wait(std::uint64_t* barrier, unsigned parity, const Where& where);

// On behalf of a thread's asynchronous copy. nullptr, or what is wrong.
const char* mbarrier_update(std::uint64_t* barrier, unsigned arrivals, std::int64_t bytes, Thread& thread);

}  // namespace llada::emulate
