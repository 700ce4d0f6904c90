#include "cpu/vector_portable.h"
#include "token_confidence/panel_statistics_impl.h"

namespace llada {

const PanelStatistics& panel_statistics_portable() { return kPanelStatistics; }

}  // namespace llada
