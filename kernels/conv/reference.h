// What conv must compute: plain, in double precision, compiled apart from the knobs.
#pragma once

namespace reference {

// y = relu(conv2d(x, w) + bias): x (N, C, H, W), w (O, C, R, S), bias (O), y (N, O, P, Q) with
// P = (H + 2 pad - R) / stride + 1 and Q likewise.
struct Conv {
  long n, c, h, w, o, r, s, stride, pad;
  long p() const { return (h + 2 * pad - r) / stride + 1; }
  long q() const { return (w + 2 * pad - s) / stride + 1; }
};

void conv(const Conv& shape, const float* x, const float* w, const float* bias, float* y);

}  // namespace reference
