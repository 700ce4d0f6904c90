#include "roofline/caches.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace llada {
namespace {

std::string first_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// "32K", "8M" or plain bytes; 0 for anything else.
std::int64_t parse_size(const std::string& text) {
  char* unit = nullptr;
  const std::int64_t number = std::strtoll(text.c_str(), &unit, 10);
  return *unit == 'K' ? number << 10 : *unit == 'M' ? number << 20 : *unit == '\0' ? number : 0;
}

// How many are in "0-3,8,10-11".
std::int64_t count_cpus(const std::string& list) {
  std::istringstream ranges(list);
  std::string range;
  std::int64_t count = 0;
  while (std::getline(ranges, range, ',')) {
    const std::size_t dash = range.find('-');
    count += dash == std::string::npos ? 1 : std::atoll(range.c_str() + dash + 1) - std::atoll(range.c_str()) + 1;
  }
  return count;
}

CacheSizes from_sysfs() {
  CacheSizes sizes{};
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    if (first_word(folder + "type") == "Instruction") continue;
    const std::string level = first_word(folder + "level");
    const std::int64_t size = parse_size(first_word(folder + "size"));
    if (level == "1") sizes.l1 = size;
    if (level == "2") sizes.l2 = size;
    if (level == "3") {
      sizes.l3 = size;
      sizes.cores = count_cpus(first_word(folder + "shared_cpu_list"));
    }
  }
  return sizes;
}

std::int64_t first_known(std::int64_t sysfs, int name, std::int64_t otherwise) {
  if (sysfs > 0) return sysfs;
  const std::int64_t size = name < 0 ? 0 : sysconf(name);
  return size > 0 ? size : otherwise;
}

#ifdef _SC_LEVEL1_DCACHE_SIZE
constexpr int kNames[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
#else
constexpr int kNames[] = {-1, -1, -1};
#endif

}  // namespace

CacheSizes cache_sizes() {
  CacheSizes sizes = from_sysfs();
  sizes.l1 = first_known(sizes.l1, kNames[0], 32 << 10);
  sizes.l2 = first_known(sizes.l2, kNames[1], 1 << 20);
  sizes.l3 = first_known(sizes.l3, kNames[2], 32 << 20);
  if (sizes.cores < 1) sizes.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return sizes;
}

}  // namespace llada
