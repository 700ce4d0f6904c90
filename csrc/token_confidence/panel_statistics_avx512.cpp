#include "cpu/vector_avx512.h"
#include "token_confidence/panel_statistics_impl.h"

namespace llada {

const PanelStatistics& panel_statistics_avx512() { return kPanelStatistics; }

}  // namespace llada
