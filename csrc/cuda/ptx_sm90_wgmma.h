// wgmma: the asynchronous tensor-core product of a warpgroup (128 threads, four whole warps). Included by ptx_sm90.h.
#pragma once

#include <type_traits>

namespace llada::ptx {

// Before the first wgmma, and whenever registers of d or a were touched since the last.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// The products since the last commit form a group.
__device__ __forceinline__ void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kGroups groups are in flight: only then are their d valid, their a registers and tiles free.
template <int kGroups>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// Operand lists of the assembly: %0 … for the registers of d, and their constraints.
#define LLADA_DECADE(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define LLADA_NAMES_4 "%0, %1, %2, %3"
#define LLADA_NAMES_8 LLADA_NAMES_4 ", %4, %5, %6, %7"
#define LLADA_NAMES_10 LLADA_NAMES_8 ", %8, %9"
#define LLADA_NAMES_16 LLADA_NAMES_10 ", %10, %11, %12, %13, %14, %15"
#define LLADA_NAMES_30 LLADA_NAMES_10 ", " LLADA_DECADE(1) ", " LLADA_DECADE(2)
#define LLADA_NAMES_32 LLADA_NAMES_30 ", %30, %31"
#define LLADA_NAMES_40 LLADA_NAMES_30 ", " LLADA_DECADE(3)
#define LLADA_NAMES_48 LLADA_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define LLADA_NAMES_60 LLADA_NAMES_40 ", " LLADA_DECADE(4) ", " LLADA_DECADE(5)
#define LLADA_NAMES_64 LLADA_NAMES_60 ", %60, %61, %62, %63"
#define LLADA_NAMES_90 LLADA_NAMES_60 ", " LLADA_DECADE(6) ", " LLADA_DECADE(7) ", " LLADA_DECADE(8)
#define LLADA_NAMES_96 LLADA_NAMES_90 ", %90, %91, %92, %93, %94, %95"
#define LLADA_NAMES_120 LLADA_NAMES_90 ", " LLADA_DECADE(9) ", " LLADA_DECADE(10) ", " LLADA_DECADE(11)
#define LLADA_NAMES_128 LLADA_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define LLADA_OUT_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LLADA_OUT_8(i) LLADA_OUT_4(i), LLADA_OUT_4(i + 4)
#define LLADA_OUT_16(i) LLADA_OUT_8(i), LLADA_OUT_8(i + 8)
#define LLADA_OUT_32(i) LLADA_OUT_16(i), LLADA_OUT_16(i + 16)
#define LLADA_OUT_48(i) LLADA_OUT_32(i), LLADA_OUT_16(i + 32)
#define LLADA_OUT_64(i) LLADA_OUT_32(i), LLADA_OUT_32(i + 32)
#define LLADA_OUT_96(i) LLADA_OUT_64(i), LLADA_OUT_32(i + 64)
#define LLADA_OUT_128(i) LLADA_OUT_64(i), LLADA_OUT_64(i + 64)

// One instruction of n columns and r = n / 2 registers of d; p0 … are r, r + 1, …: the numbers of the operands after d.
#define LLADA_WGMMA_SHARED(type, n, r, p0, p1, p2, p3, p4)                                          \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #p2                           \
               ", 0;\n"                                                                             \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" LLADA_NAMES_##r \
               "}, %" #p0 ", %" #p1 ", accumulate, 1, 1, %" #p3 ", %" #p4 ";\n}"                    \
               : LLADA_OUT_##r(0)                                                                   \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(kMajorA)), \
                 "n"(static_cast<int>(kMajorB)))
#define LLADA_WGMMA_REGISTERS(type, n, r, p0, p1, p2, p3, p4, p5, p6)                                   \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #p5                               \
               ", 0;\n"                                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" LLADA_NAMES_##r     \
               "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", accumulate, 1, 1, %" #p6 ";\n}"  \
               : LLADA_OUT_##r(0)                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                 "n"(static_cast<int>(kMajorB)))
#define LLADA_WGMMA_COLUMNS(form, n, ...)                   \
  if constexpr (kColumns == n) {                            \
    if constexpr (std::is_same_v<Element, __nv_bfloat16>) { \
      LLADA_WGMMA_##form("bf16", n, __VA_ARGS__);           \
    } else {                                                \
      LLADA_WGMMA_##form("f16", n, __VA_ARGS__);            \
    }                                                       \
  }

// Columns that an instruction may have here.
template <int kColumns>
inline constexpr bool kWgmmaColumns = kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 ||
                                      kColumns == 96 || kColumns == 128 || kColumns == 192 || kColumns == 256;

// d (64 x kColumns, float) = a (64 x 16) * b (16 x kColumns), added to d if `accumulate`. Elements are __nv_bfloat16 or
// __half; a and b are tiles in shared memory (tile_descriptor). Warp w of the group holds rows 16 w …; d[i] of its lane
// l is
//   row l / 4 + i / 2 % 2 * 8, column i / 4 * 8 + l % 4 * 2 + i % 2.
template <class Element, int kColumns, Major kMajorA = Major::kK, Major kMajorB = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
  static_assert(kWgmmaColumns<kColumns>);
  LLADA_WGMMA_COLUMNS(SHARED, 8, 4, 4, 5, 6, 7, 8)
  LLADA_WGMMA_COLUMNS(SHARED, 16, 8, 8, 9, 10, 11, 12)
  LLADA_WGMMA_COLUMNS(SHARED, 32, 16, 16, 17, 18, 19, 20)
  LLADA_WGMMA_COLUMNS(SHARED, 64, 32, 32, 33, 34, 35, 36)
  LLADA_WGMMA_COLUMNS(SHARED, 96, 48, 48, 49, 50, 51, 52)
  LLADA_WGMMA_COLUMNS(SHARED, 128, 64, 64, 65, 66, 67, 68)
  LLADA_WGMMA_COLUMNS(SHARED, 192, 96, 96, 97, 98, 99, 100)
  LLADA_WGMMA_COLUMNS(SHARED, 256, 128, 128, 129, 130, 131, 132)
}

// The same with a in registers: each warp's 16 rows as mma_m16n8k16 holds them. They must not change before the wait.
template <class Element, int kColumns, Major kMajorB = Major::kK>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                                      bool accumulate) {
  static_assert(kWgmmaColumns<kColumns>);
  LLADA_WGMMA_COLUMNS(REGISTERS, 8, 4, 4, 5, 6, 7, 8, 9, 10)
  LLADA_WGMMA_COLUMNS(REGISTERS, 16, 8, 8, 9, 10, 11, 12, 13, 14)
  LLADA_WGMMA_COLUMNS(REGISTERS, 32, 16, 16, 17, 18, 19, 20, 21, 22)
  LLADA_WGMMA_COLUMNS(REGISTERS, 64, 32, 32, 33, 34, 35, 36, 37, 38)
  LLADA_WGMMA_COLUMNS(REGISTERS, 96, 48, 48, 49, 50, 51, 52, 53, 54)
  LLADA_WGMMA_COLUMNS(REGISTERS, 128, 64, 64, 65, 66, 67, 68, 69, 70)
  LLADA_WGMMA_COLUMNS(REGISTERS, 192, 96, 96, 97, 98, 99, 100, 101, 102)
  LLADA_WGMMA_COLUMNS(REGISTERS, 256, 128, 128, 129, 130, 131, 132, 133, 134)
}

#undef LLADA_DECADE
#undef LLADA_NAMES_10
#undef LLADA_NAMES_120
#undef LLADA_NAMES_128
#undef LLADA_NAMES_16
#undef LLADA_NAMES_30
#undef LLADA_NAMES_32
#undef LLADA_NAMES_4
#undef LLADA_NAMES_40
#undef LLADA_NAMES_48
#undef LLADA_NAMES_60
#undef LLADA_NAMES_64
#undef LLADA_NAMES_8
#undef LLADA_NAMES_90
#undef LLADA_NAMES_96
#undef LLADA_OUT_128
#undef LLADA_OUT_16
#undef LLADA_OUT_32
#undef LLADA_OUT_4
#undef LLADA_OUT_48
#undef LLADA_OUT_64
#undef LLADA_OUT_8
#undef LLADA_OUT_96
#undef LLADA_WGMMA_COLUMNS
#undef LLADA_WGMMA_REGISTERS
#undef LLADA_WGMMA_SHARED

}  // namespace llada::ptx
