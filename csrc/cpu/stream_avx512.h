// How rows and panels are read while they are multiplied. One core keeps up with memory (Zen 5: 35-41 of the 40 GB/s
// that it can read, with one to eight rows) if a loop's turn takes two lanes, and if from three rows on software
// fetches the panel into L1 well ahead: with more arithmetic the processor's own prefetchers have too little room. One
// lane a turn streams a third less from four rows on. Up to five rows Zen 4 is fastest with halves of lines (14 % with
// one), Zen 5 with whole ones (4 %) where nothing is fetched, and either way where it is.
//
// Intel's cores wait for more lines at once in L2 than in L1: fetched into L2 a panel comes at 13 GB/s with one to
// eight rows, all that an Emerald Rapids core reads there, into L1 at 11, and not fetched at 9.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "common/bfloat16.h"
#include "cpu/panel_gemm.h"

namespace llada {
namespace {

constexpr int kHalvedRows = 5, kUnfetchedRows = 2, kPairedRows = 9;

// In assembly because compilers would join the halves.
LLADA_INLINE __m512i load_halves(const std::uint32_t* lanes) {
  __m512i value = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes)));
  asm("vinserti64x4 $1, %1, %0, %0" : "+v"(value) : "m"(*reinterpret_cast<const std::uint32_t (*)[8]>(lanes + 8)));
  return value;
}

template <bool Halves>
LLADA_INLINE __m512i load_weights(const std::uint32_t* lanes) {
  return Halves ? load_halves(lanes) : _mm512_loadu_si512(lanes);
}

// Where software has lines brought. On AMD's cores rather into L1, which hands them on to L2 long before they are used:
// 1-4 % faster with two chunks of rows than with a hint for L2.
enum class Fetch { kNot, kIntoL1, kIntoL2 };

template <Fetch Into>
LLADA_INLINE void prefetch(const void* line) {
  if constexpr (Into == Fetch::kIntoL1) _mm_prefetch(line, _MM_HINT_T0);
  if constexpr (Into == Fetch::kIntoL2) _mm_prefetch(line, _MM_HINT_T1);
}

// The lines that begin in [next, next + step), step <= 128.
template <Fetch Into>
LLADA_INLINE void prefetch_lines(const char* next, std::int64_t step) {
  constexpr std::int64_t kLine = 64;
  if (static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(next) % kLine) < step) prefetch<Into>(next);
  if (step > kLine) prefetch<Into>(next + kLine);
}

// Walks the lanes of a tile's operands. FetchFew: where a panel is read in whole lines by one or two rows, it is rather
// fetched ahead and read in halves, which is 3-5 % faster for int8 and up to 2 % slower for the others.
template <int Rows, bool FetchFew = false>
struct Lanes {
  const std::uint32_t *panel, *rows;
  const char* next;
  std::int64_t next_step, ahead, rows_ahead;
  bool whole_lines, into_l2;

  explicit LLADA_INLINE Lanes(const PanelGemmArgs& args)
      : panel(args.panel),
        rows(args.rows),
        next(static_cast<const char*>(args.next)),
        next_step(args.next_step),
        ahead(args.ahead),
        rows_ahead(args.rows_ahead),
        whole_lines(args.whole_lines),
        into_l2(args.into_l2) {}

  // Calls multiply(left, right, rows) with each of the next `count` lanes: the panel's two halves, and the rows'.
  template <class Multiply>
  LLADA_INLINE void take(std::int64_t count, const Multiply& multiply) {
    if (into_l2) {
      take_all<false, Fetch::kIntoL2>(count, multiply);
    } else if (Rows <= kUnfetchedRows && whole_lines) {
      take_all<FetchFew, FetchFew ? Fetch::kIntoL1 : Fetch::kNot>(count, multiply);
    } else {
      take_all<Rows <= kHalvedRows, Rows <= kUnfetchedRows ? Fetch::kNot : Fetch::kIntoL1>(count, multiply);
    }
  }

 private:
  template <bool Halves, Fetch Into, class Multiply>
  LLADA_INLINE void take_all(std::int64_t count, const Multiply& multiply) {
    if constexpr (Rows <= kPairedRows) {
      for (; count >= 2; count -= 2) {
        take_one<Halves, Into>(0, multiply);
        take_one<Halves, Into>(1, multiply);
        move(2);
      }
    }
    for (; count > 0; --count) {
      take_one<Halves, Into>(0, multiply);
      move(1);
    }
  }

  template <bool Halves, Fetch Into, class Multiply>
  LLADA_INLINE void take_one(int lane, const Multiply& multiply) const {
    const std::uint32_t *columns = panel + lane * kPanelColumns, *values = rows + lane * Rows;
    const __m512i left = load_weights<Halves>(columns), right = load_weights<Halves>(columns + 16);
    if constexpr (Into != Fetch::kNot) {
      prefetch_lines<Into>(next + lane * next_step, next_step);
      prefetch<Into>(reinterpret_cast<const char*>(columns) + ahead);
      prefetch<Into>(reinterpret_cast<const char*>(columns + 16) + ahead);
      prefetch<Fetch::kIntoL1>(reinterpret_cast<const char*>(values) + rows_ahead);
    }
    multiply(left, right, values);
  }

  LLADA_INLINE void move(int lanes) {
    panel += lanes * kPanelColumns;
    rows += lanes * Rows;
    next += lanes * next_step;
  }
};

}  // namespace
}  // namespace llada
