#include "decode_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "threads.h"
#include "trit_product.h"

namespace hardy {
namespace {

// To the nearest float16, halves to even; what is too large becomes infinite.
uint16_t half_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
  if (magnitude < 0x38800000) {  // below the smallest normal number: the addition rounds to multiples of 2^-24
    float shifted;
    std::memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &shifted, 4);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

void norm_of_head(float* head, const float* weight, float epsilon, int64_t size) {
  float sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += head[i] * head[i];
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(size) + epsilon);
  for (int64_t i = 0; i < size; ++i) head[i] *= factor * weight[i];
}

void rotate(float* head, const float* cosines, const float* sines, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i + half] + a * sines[i + half];
  }
}

// Threads are woken for no less than this many cached numbers.
constexpr int64_t kWorthAThread = int64_t{1} << 16;

}  // namespace

void add_rms_norm(const std::string& path, float* residual, const float* delta, const float* weight, float epsilon,
                  int64_t size, float* output) {
  path_named(path).add_rms_norm(residual, delta, weight, epsilon, size, output);
}

void attend(const std::string& name, const Attention& a, int threads) {
  const Path& path = path_named(name);
  float* const keys = a.projected + a.heads * a.size;
  const float* const values = keys + a.key_heads * a.size;
  for (int64_t h = 0; h < a.heads + a.key_heads; ++h) {
    const float* norm = h < a.heads ? a.query_norm : a.key_norm;
    if (norm) norm_of_head(a.projected + h * a.size, norm, a.epsilon, a.size);
    rotate(a.projected + h * a.size, a.cosines, a.sines, a.size);
  }
  for (int64_t h = 0; h < a.key_heads; ++h) {
    uint16_t* key = a.keys + (h * a.capacity / 16 + a.position / 16) * a.size * 16 + a.position % 16;
    uint16_t* value = a.values + (h * a.capacity + a.position) * a.size;
    for (int64_t i = 0; i < a.size; ++i) key[i * 16] = half_of(keys[h * a.size + i]);
    for (int64_t i = 0; i < a.size; ++i) value[i] = half_of(values[h * a.size + i]);
  }
  const int64_t work = 2 * std::min(a.window, a.position + 1) * a.heads * a.size;
  const int useful = static_cast<int>(std::min<int64_t>(threads, 1 + work / kWorthAThread));
  parallel_for(a.key_heads, 1, useful, [&](int64_t begin, int64_t end) { path.attend(a, begin, end); });
}

void gate(const std::string& path, Gate kind, const float* both, int64_t size, float* output) {
  path_named(path).gate(kind, both, size, output);
}

}  // namespace hardy
