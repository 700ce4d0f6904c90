#include "token_confidence/panel_statistics.h"

namespace llada {

const PanelStatistics& select_panel_statistics(Isa isa) {
#if defined(__x86_64__)
  if (is_avx512(isa)) return panel_statistics_avx512();
  if (isa == Isa::kAvx2) return panel_statistics_avx2();
#endif
  static_cast<void>(isa);
  return panel_statistics_portable();
}

}  // namespace llada
