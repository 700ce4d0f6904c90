// Dense projections on a GPU: the checked entry, and the launcher that it calls.
#pragma once

namespace llada {

struct LinearArgs;

namespace cuda {

struct ProductParams;
struct Stream;

// Plain weights alone.
void linear(const LinearArgs& args, const Stream& stream);

// bias: [columns] of the dtype, or null.
int linear_sm80(const ProductParams& params, const void* bias);
int linear_sm90(const ProductParams& params, const void* bias);

}  // namespace cuda
}  // namespace llada
