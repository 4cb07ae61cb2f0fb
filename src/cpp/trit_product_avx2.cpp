// The trit product with AVX2: products of bytes are added in pairs to 16 bits, and widened at the latest where they
// could overflow.
#include "trit_product.h"

#include <immintrin.h>

namespace hardy {
namespace {

struct Isa {
  struct Two {
    __m256i low, high;  // rows 0..7, 8..15
  };
  using Line = Two;
  using Bytes = Two;
  using Quad = __m256i;
  struct Sums {
    __m256i low, high;  // 16 bits, two to a row
  };
  struct Ints {
    __m256i low, high;
  };
  struct Floats {
    __m256 low, high;
  };

  static constexpr int64_t kFetched = 2048;  // bytes ahead
  static constexpr int kFew = 1;
  static constexpr int kMany = 4;
  static constexpr int kBlocks[4] = {1, 1, 1, 1};
  static constexpr int kTile[4] = {4, 2, 1, 1};

  static HARDY_INLINE const __m256i* at(const void* p) { return static_cast<const __m256i*>(p); }
  static HARDY_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static HARDY_INLINE Line line(const uint8_t* p) { return {_mm256_loadu_si256(at(p)), _mm256_loadu_si256(at(p + 32))}; }
  static HARDY_INLINE Bytes bytes(const uint8_t* p) { return {_mm256_load_si256(at(p)), _mm256_load_si256(at(p + 32))}; }
  static HARDY_INLINE void store(uint8_t* p, Bytes v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), v.low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + 32), v.high);
  }
  template <int F>
  static HARDY_INLINE Bytes codes(Line v) {
    const __m256i mask = _mm256_set1_epi8(3);
    return {_mm256_and_si256(_mm256_srli_epi16(v.low, 2 * F), mask),
            _mm256_and_si256(_mm256_srli_epi16(v.high, 2 * F), mask)};
  }
  template <int F>
  static HARDY_INLINE Bytes field(Line v) {
    return codes<F>(v);
  }
  static HARDY_INLINE Quad quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  static HARDY_INLINE Sums no_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static HARDY_INLINE Sums dot(Sums s, Bytes b, Quad q) {
    return {_mm256_add_epi16(s.low, _mm256_maddubs_epi16(b.low, q)),
            _mm256_add_epi16(s.high, _mm256_maddubs_epi16(b.high, q))};
  }
  static HARDY_INLINE Ints plain(Sums s) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(s.low, ones), _mm256_madd_epi16(s.high, ones)};
  }
  template <int F>
  static HARDY_INLINE Ints total(Sums s) {
    return plain(s);
  }
  static HARDY_INLINE Ints ints(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static HARDY_INLINE Ints add(Ints a, Ints b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static HARDY_INLINE Ints sub(Ints a, Ints b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
  }
  static HARDY_INLINE Floats to_floats(Ints v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }
  static HARDY_INLINE Floats floats(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static HARDY_INLINE Floats halves(const uint16_t* p) {
    const __m128i* half = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1))};
  }
  static HARDY_INLINE Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static HARDY_INLINE Floats mul(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static HARDY_INLINE void store(float* p, Floats v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
};

#include "trit_product_loops.h"

#include "decode_step_loops.h"
#include "rotation_loops.h"

}  // namespace

const Path kAvx2{"avx2", quantize, product, add_rms_norm, attend, gate, rotate};

}  // namespace hardy
