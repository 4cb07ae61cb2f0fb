#include "rotation.h"

#include <algorithm>
#include <cmath>

namespace hardy {
namespace {

void rotate_block(float* x, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t begin = 0; begin < size; begin += 2 * half) {
      float* first = x + begin;
      float* second = first + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = first[i], b = second[i];
        first[i] = a + b;
        second[i] = a - b;
      }
    }
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  for (int64_t i = 0; i < size; ++i) x[i] *= scale;
}

}  // namespace

void rotate(const float* x, int64_t rows, int64_t width, int64_t size, float* output) {
  if (output != x) std::copy(x, x + rows * width, output);
  for (int64_t row = 0; row < rows; ++row) {
    float* at = output + row * width;
    for (int64_t left = width, block = size; left > 0; left -= block, at += block) {
      while (block > left) block /= 2;
      rotate_block(at, block);
    }
  }
}

}  // namespace hardy
