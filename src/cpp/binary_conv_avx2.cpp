// The binary convolution with AVX2, which counts the bits of half bytes in a table.
#include "binary_conv.h"

#include <immintrin.h>

namespace hardy {
namespace {

struct Isa {
  struct Words {
    __m256i low, high;
  };
  using Floats = __m256;
  static constexpr int kSums = 4;

  static HARDY_INLINE Words zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static HARDY_INLINE __m256i at(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static HARDY_INLINE Words load(const uint64_t* p) { return {at(p), at(p + 4)}; }
  static HARDY_INLINE __m256i bits_of(__m256i v) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2,
                                           2, 3, 2, 3, 3, 4);
    const __m256i four = _mm256_set1_epi8(15);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, four));
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), four));
    return _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256());
  }
  static HARDY_INLINE Words count(Words sum, Words a, uint64_t b) {
    const __m256i all = _mm256_set1_epi64x(static_cast<long long>(b));
    return {_mm256_add_epi64(sum.low, bits_of(_mm256_and_si256(a.low, all))),
            _mm256_add_epi64(sum.high, bits_of(_mm256_and_si256(a.high, all)))};
  }
  static HARDY_INLINE Words count(Words sum, Words a) { return count(sum, a, ~uint64_t{0}); }
  static HARDY_INLINE Words add_shifted(Words sum, Words a, int shift) {
    const __m128i by = _mm_cvtsi32_si128(shift);
    return {_mm256_add_epi64(sum.low, _mm256_sll_epi64(a.low, by)),
            _mm256_add_epi64(sum.high, _mm256_sll_epi64(a.high, by))};
  }
  // Sums fit 32 bits, of which the lower half of each lane is taken.
  static HARDY_INLINE __m256i narrow(Words a) {
    const __m256i pick = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    return _mm256_blend_epi32(_mm256_permutevar8x32_epi32(a.low, pick), _mm256_permutevar8x32_epi32(a.high, pick), 0xf0);
  }
  // 2 set - all - less, as floats.
  static HARDY_INLINE Floats dot(Words set, Words all, const int64_t* less) {
    const __m256i some = narrow(set), twice = _mm256_sub_epi32(_mm256_add_epi32(some, some), narrow(all));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(twice, _mm256_set1_epi32(static_cast<int>(*less))));
  }
  static HARDY_INLINE Floats affine(Floats dot, Floats column, float scale, float offset, float bias) {
    const Floats y = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(scale), dot),
                                   _mm256_mul_ps(_mm256_set1_ps(offset), column));
    return _mm256_add_ps(y, _mm256_set1_ps(bias));
  }
  static HARDY_INLINE void store(float* p, Floats y, int count) {
    if (count == kLanes) return _mm256_storeu_ps(p, y);
    store_apart(p, 1, y, count);
  }
  static HARDY_INLINE void store_apart(float* p, int64_t step, Floats y, int count) {
    alignas(32) float v[kLanes];
    _mm256_store_ps(v, y);
    for (int i = 0; i < count; ++i) p[i * step] = v[i];
  }
};

#include "binary_conv_loops.h"

}  // namespace

const BinaryPath kBinaryAvx2{quantize, product};

}  // namespace hardy
