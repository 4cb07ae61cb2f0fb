// Sixteen floats at once, a row of a tile, in as many registers as the instruction set needs. Each file that includes
// this, inside its own unnamed namespace, has set HARDY_LANES to the floats of one register.

#ifdef _MSC_VER
#define HARDY_INLINE __forceinline
#else
#define HARDY_INLINE inline __attribute__((always_inline))
#endif

#if HARDY_LANES == 1
using Floats = float;
using Ints = int32_t;
HARDY_INLINE Ints below(Floats a, Floats b) { return a < b ? -1 : 0; }
HARDY_INLINE Ints at_most(Floats a, Floats b) { return a <= b ? -1 : 0; }
HARDY_INLINE Floats choose(Ints mask, Floats a, Floats b) { return mask ? a : b; }
HARDY_INLINE Ints bits(Floats a) {
  Ints i;
  std::memcpy(&i, &a, 4);
  return i;
}
HARDY_INLINE Floats from_bits(Ints i) {
  Floats a;
  std::memcpy(&a, &i, 4);
  return a;
}
HARDY_INLINE int set_bits(Ints mask) { return mask & 1; }
#else
typedef float Floats __attribute__((vector_size(4 * HARDY_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * HARDY_LANES)));
HARDY_INLINE Ints below(Floats a, Floats b) { return a < b; }
HARDY_INLINE Ints at_most(Floats a, Floats b) { return a <= b; }
HARDY_INLINE Floats choose(Ints mask, Floats a, Floats b) { return mask ? a : b; }
HARDY_INLINE Ints bits(Floats a) { return (Ints)a; }
HARDY_INLINE Floats from_bits(Ints i) { return (Floats)i; }
HARDY_INLINE int set_bits(Ints mask) {
#if HARDY_LANES == 16
  return __builtin_popcount(_mm512_movepi32_mask((__m512i)mask));
#elif HARDY_LANES == 8
  return __builtin_popcount(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return __builtin_popcount(_mm_movemask_ps((__m128)mask));
#else
  return -(mask[0] + mask[1] + mask[2] + mask[3]);
#endif
}
#endif

constexpr int kRegisters = kTile / HARDY_LANES;

HARDY_INLINE Floats all(float value) { return Floats{} + value; }
HARDY_INLINE Floats load(const float* p) {
  Floats value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
HARDY_INLINE void store(float* p, Floats value) { std::memcpy(p, &value, sizeof value); }

// exp(-s) for 0 <= s, which is cut at 80: 2^n times a polynomial in the rest of the exponent, relative error 2e-7.
HARDY_INLINE Floats exp_minus(Floats s) {
  s = choose(below(s, all(80.0f)), s, all(80.0f));
  const Floats t = s * -1.44269504f;
  const Floats shifted = t + 12582912.0f;  // at 1.5 * 2^23 floats are integers
  const Floats f = t - (shifted - 12582912.0f);
  Floats p = f * 0.001326472032815218f + 0.009671512991189957f;
  p = p * f + 0.05550733581185341f;
  p = p * f + 0.24022242426872253f;
  p = p * f + 0.6931470036506653f;
  p = p * f + 1.0f;
  return from_bits(bits(p) + ((bits(shifted) - 0x4b400000) << 23));
}

// Sums and whatever else is kept for a row of a tile, register by register.
struct Row {
  Floats part[kRegisters];
};

HARDY_INLINE Row row_of(float value) {
  Row row;
  for (int i = 0; i < kRegisters; ++i) row.part[i] = all(value);
  return row;
}

// The sum over the row: always the same tree.
HARDY_INLINE float sum(const Row& row) {
  float v[kTile];
  for (int i = 0; i < kRegisters; ++i) store(v + i * HARDY_LANES, row.part[i]);
  for (int half = kTile / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
