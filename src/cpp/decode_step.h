// What a decoding step does between its products: normalization, attention over the cached keys and values, gating.
//
// What is computed is told in src/hardy/ops/decode_step.py, beside its torch references.
#pragma once

#include <cstdint>
#include <string>

namespace hardy {

// The shapes of one layer's attention, and what it reads and writes. Positions come in blocks of 16.
struct Attention {
  int64_t heads, key_heads, size;      // `size` of a head: a multiple of 16
  int64_t capacity;                    // positions that the cache holds, a multiple of 16
  int64_t position;                    // of this token; it sees `window` positions, itself among them
  int64_t window;
  float scaling;
  const float *cosines, *sines;        // (size,) of this position; the second half repeats the first
  const float *query_norm, *key_norm;  // (size,), or null: RMS norms of each head, before the rotation
  float epsilon;                       // of those norms
  float* projected;                    // (heads + 2 key_heads, size): queries, keys, values; the first two are rotated
  uint16_t* keys;                      // (key_heads, capacity / 16, size, 16) float16
  uint16_t* values;                    // (key_heads, capacity, size) float16
  float* output;                       // (heads, size)
};

// residual += delta, unless that is null; then output = weight * residual / sqrt(mean(residual^2) + epsilon).
void add_rms_norm(const std::string& path, float* residual, const float* delta, const float* weight, float epsilon,
                  int64_t size, float* output);

// Writes the token's key and value to the cache, and attends to what it sees.
void attend(const std::string& path, const Attention& attention, int threads);

// output = activation(gate) * up, where `both` holds gate and then up.
enum class Gate { kSilu, kGeluTanh };
void gate(const std::string& path, Gate kind, const float* both, int64_t size, float* output);

}  // namespace hardy
