#include "common/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "common/check.h"

namespace llada {
namespace {

constexpr int kUnforced = -1;
std::atomic<int> forced{kUnforced}, forced_path{kUnforced};

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

bool is_intel() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

// AMD up to family 19h.
bool is_zen4_or_older() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_is("amd") || __get_cpuid(1, &a, &b, &c, &d) == 0) return false;
  return (a >> 8 & 0xf) + (a >> 20 & 0xff) <= 0x19;
#else
  return false;
#endif
}

std::optional<CudaPath> parse_cuda_path(const std::string& name) {
  for (const CudaPath path : {CudaPath::kSm80, CudaPath::kSm90a}) {
    if (name == cuda_path_name(path)) return path;
  }
  return std::nullopt;
}

Isa parse(const std::string& name) {
  std::string have;
  for (const Isa isa : available_isas()) {
    if (name == isa_name(isa)) return isa;
    if (!have.empty()) have += ", ";
    have += isa_name(isa);
  }
  throw ValueError("instruction set must be one that this processor has (" + have +
                   ") or a GPU's (sm80, sm90a), got '" + name + "'");
}

std::string environment() {
  const char* name = std::getenv("LLADA_MOE_OPS_ISA");
  return name == nullptr ? "" : name;
}

Isa chosen_by_environment() {
  const std::string name = environment();
  return name.empty() || parse_cuda_path(name) ? available_isas().front() : parse(name);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Fma:
      return "avx512fma";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

const char* cuda_path_name(CudaPath path) { return path == CudaPath::kSm90a ? "sm90a" : "sm80"; }

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  if (has_avx512()) isas = {Isa::kAvx512, Isa::kAvx512Fma};
  if (is_intel()) std::reverse(isas.begin(), isas.end());
  if (has_avx2()) isas.push_back(Isa::kAvx2);
  isas.push_back(Isa::kPortable);
  return isas;
}

bool reads_whole_lines() {
  static const bool whole = !is_zen4_or_older();
  return whole;
}

bool fetches_into_l2() {
  static const bool intel = is_intel();
  return intel;
}

Isa active_isa() {
  const int isa = forced.load(std::memory_order_relaxed);
  if (isa != kUnforced) return static_cast<Isa>(isa);
  static const Isa chosen = chosen_by_environment();  // a throw leaves it unset: the next call throws again
  return chosen;
}

std::optional<CudaPath> forced_cuda_path() {
  const int path = forced_path.load(std::memory_order_relaxed);
  if (path != kUnforced) return static_cast<CudaPath>(path);
  static const std::optional<CudaPath> chosen = parse_cuda_path(environment());
  return chosen;
}

void force_isa(const std::string& name) {
  const std::optional<CudaPath> path = parse_cuda_path(name);
  const int isa = name.empty() || path ? kUnforced : static_cast<int>(parse(name));
  forced.store(isa, std::memory_order_relaxed);
  forced_path.store(path ? static_cast<int>(*path) : kUnforced, std::memory_order_relaxed);
}

}  // namespace llada
