// The binary convolution with AVX-512 and its count of bits (VPOPCNTDQ).
#include "binary_conv.h"

#include <immintrin.h>

namespace hardy {
namespace {

struct Isa {
  using Words = __m512i;
  using Floats = __m256;
  static constexpr int kSums = 24;

  static HARDY_INLINE Words zero() { return _mm512_setzero_si512(); }
  static HARDY_INLINE Words load(const uint64_t* p) { return _mm512_loadu_si512(p); }
  static HARDY_INLINE Words count(Words sum, Words a, uint64_t b) {
    const Words both = _mm512_and_si512(a, _mm512_set1_epi64(static_cast<long long>(b)));
    return _mm512_add_epi64(sum, _mm512_popcnt_epi64(both));
  }
  static HARDY_INLINE Words count(Words sum, Words a) { return _mm512_add_epi64(sum, _mm512_popcnt_epi64(a)); }
  static HARDY_INLINE Words add_shifted(Words sum, Words a, int shift) {
    return _mm512_add_epi64(sum, _mm512_sll_epi64(a, _mm_cvtsi32_si128(shift)));
  }
  // 2 set - all - less, as floats.
  static HARDY_INLINE Floats dot(Words set, Words all, const int64_t* less) {
    const Words twice = _mm512_sub_epi64(_mm512_add_epi64(set, set), all);
    return _mm512_cvtepi64_ps(_mm512_sub_epi64(twice, _mm512_set1_epi64(*less)));
  }
  static HARDY_INLINE Floats affine(Floats dot, Floats column, float scale, float offset, float bias) {
    const Floats y = _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(scale), dot),
                                   _mm256_mul_ps(_mm256_set1_ps(offset), column));
    return _mm256_add_ps(y, _mm256_set1_ps(bias));
  }
  static HARDY_INLINE void store(float* p, Floats y, int count) {
    if (count == kLanes) return _mm256_storeu_ps(p, y);
    _mm256_mask_storeu_ps(p, static_cast<__mmask8>((1 << count) - 1), y);
  }
  static HARDY_INLINE void store_apart(float* p, int64_t step, Floats y, int count) {
    alignas(32) float v[kLanes];
    _mm256_store_ps(v, y);
    for (int i = 0; i < count; ++i) p[i * step] = v[i];
  }
};

#include "binary_conv_loops.h"

}  // namespace

const BinaryPath kBinaryAvx512{quantize, product};

}  // namespace hardy
