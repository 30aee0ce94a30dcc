// What mlp must compute: plain, in double precision, compiled apart from the knobs.
#pragma once

namespace reference {

// y = gelu(x W1 + b1) W2 + b2, rows independent: x (rows, in), W1 (in, hidden), W2 (hidden, out), y (rows, out).
// gelu is the tanh approximation, 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) (Hendrycks and Gimpel 2016).
void mlp(const float* x, const float* w1, const float* b1, const float* w2, const float* b2, float* y, long rows,
         long in, long hidden, long out);

}  // namespace reference
