// 2^x on [-1/2, 1/2]: minimax polynomial of degree 6 (Remez), relative error 1.9e-9, lowest power first.
#pragma once

namespace llada {

inline constexpr float kExp2[7] = {
    1.0f, 0.6931472057f, 0.2402264689f, 0.05550328777f, 0.009618488957f, 0.001339993121f, 0.0001534581216f};
inline constexpr float kExp2Floor = -127.0f;  // here the exponent field becomes 0: the result is exactly zero
inline constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace llada
