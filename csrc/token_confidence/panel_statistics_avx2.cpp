#include "cpu/vector_avx2.h"
#include "token_confidence/panel_statistics_impl.h"

namespace llada {

const PanelStatistics& panel_statistics_avx2() { return kPanelStatistics; }

}  // namespace llada
