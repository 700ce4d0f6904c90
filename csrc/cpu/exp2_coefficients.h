// 2^x on [-1/2, 1/2]: minimax polynomials (Remez), lowest power first.
#pragma once

namespace llada {

// Relative error 1.9e-9.
inline constexpr float kExp2[7] = {
    1.0f, 0.6931472057f, 0.2402264689f, 0.05550328777f, 0.009618488957f, 0.001339993121f, 0.0001534581216f};
// Relative error 2.8e-6: for results that are rounded to bf16.
inline constexpr float kExp2Short[5] = {1.0f, 0.6931241751f, 0.2402409911f, 0.05590642616f, 0.009582852945f};

// As precise as Element asks for, fp32 or bf16.
template <class Element>
inline constexpr int kExp2Degree = sizeof(Element) == 4 ? 6 : 4;
template <class Element>
inline constexpr const float* kExp2Of = sizeof(Element) == 4 ? kExp2 : kExp2Short;
inline constexpr float kExp2Floor = -127.0f;  // here the exponent field becomes 0: the result is exactly zero
inline constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace llada
