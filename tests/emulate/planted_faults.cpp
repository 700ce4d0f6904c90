// planted_faults SUBJECT FAULT SEED: runs a subject with a fault and says what is seen of it; SUBJECT build: which
// build this is.
//   0  right   1  wrong result   2  reported by the emulator   others: a sanitizer's
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "emulate/scheduler.h"
#include "tests/emulate/subjects.h"

namespace {

using subjects::Fault;

const std::map<std::string, Fault> kFaults = {
    {"none", Fault::kNone},
    {"missing_barrier", Fault::kMissingBarrier},
    {"off_by_one", Fault::kOffByOne},
    {"unwaited_copy", Fault::kUnwaitedCopy},
    {"swapped_fragment", Fault::kSwappedFragment},
    {"wrong_swizzle", Fault::kWrongSwizzle},
    {"read_past_end", Fault::kReadPastEnd},
    {"wrong_bytes", Fault::kWrongBytes},
    {"wrong_descriptor", Fault::kWrongDescriptor},
    {"freed_too_early", Fault::kFreedTooEarly},
    {"unwaited_product", Fault::kUnwaitedProduct},
    {"missing_turn", Fault::kMissingTurn},
    {"wrong_stage", Fault::kWrongStage},
};

#if defined(__SANITIZE_ADDRESS__)
constexpr const char* kBuild = "address";
#elif defined(__SANITIZE_THREAD__)
constexpr const char* kBuild = "thread";
#else
constexpr const char* kBuild = "plain";
#endif

int report(int status, bool right) {
  if (status != 0) {
    std::printf("emulator: %s\n", llada::emulate::last_error());
    return 2;
  }
  std::puts(right ? "right" : "wrong result");
  return right ? 0 : 1;
}

int check_sort(Fault fault) {
  constexpr int kCount = 300;
  std::vector<int> keys(kCount), order(kCount, -1);
  unsigned random = 1;
  for (int& key : keys) key = static_cast<int>((random = random * 1664525 + 1013904223) >> 16) % subjects::kKeys;
  keys[kCount / 2] = subjects::kKeys - 1;
  const int status = subjects::sort_by_key(fault, keys.data(), order.data(), kCount);
  bool right = true;
  int next = 0;
  for (int key = 0; key < subjects::kKeys; ++key) {
    for (int i = 0; i < kCount; ++i) {
      if (keys[i] == key) right = right && order[next++] == i;
    }
  }
  return report(status, right);
}

// Whole numbers, so that every order of summation gives the same.
std::uint16_t bfloat16_of(int value) {
  const auto widened = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &widened, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}

// Ragged in rows and columns for both subjects' tiles; more steps of depth than stages.
int check_product(Fault fault, int (*run)(Fault, const subjects::Product&)) {
  constexpr int kRows = 75, kColumns = 70, kDepth = 64 * 5;
  std::vector<std::uint16_t> a(kRows * kDepth), b(kColumns * kDepth);
  std::vector<float> c(kRows * kColumns, -1e6f);
  const auto value = [](int i) { return (i * 7 + i / 11 * 5 + i / 320 * 3) % 9 - 4; };
  for (int i = 0; i < kRows * kDepth; ++i) a[i] = bfloat16_of(value(i));
  for (int i = 0; i < kColumns * kDepth; ++i) b[i] = bfloat16_of(value(i + 13));
  const int status = run(fault, {a.data(), b.data(), c.data(), kRows, kColumns, kDepth});
  bool right = true;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      int sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += value(row * kDepth + k) * value(column * kDepth + k + 13);
      right = right && c[row * kColumns + column] == static_cast<float>(sum);
    }
  }
  return report(status, right);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::fputs("planted_faults SUBJECT FAULT SEED\n", stderr);
    return 64;
  }
  const std::string subject = arguments[1], fault = arguments[2];
  const unsigned long long seed = std::strtoull(arguments[3], nullptr, 10);
  llada::emulate::settings().seed = seed;
  llada::emulate::settings().resident_blocks = static_cast<unsigned>(1 + seed % 4);
  if (subject == "build") return std::puts(kBuild) < 0;
  if (subject == "rule") return report(subjects::broken_rule(fault.c_str()), true);
  if (subject == "sort") return check_sort(kFaults.at(fault));
  if (subject == "product_sm80") return check_product(kFaults.at(fault), subjects::product_sm80);
  if (subject == "product_sm90") return check_product(kFaults.at(fault), subjects::product_sm90);
  std::fprintf(stderr, "no subject %s\n", subject.c_str());
  return 64;
}
