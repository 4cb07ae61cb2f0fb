// The trit product with AVX-512 and its dot products of bytes (VNNI). Codes are left where they stand in the byte,
// one mask away: a factor 4^field goes through the sums and is shifted out once a group.
#include "trit_product.h"

#include <immintrin.h>

namespace hardy {
namespace {

struct Isa {
  using Line = __m512i;
  using Bytes = __m512i;
  using Quad = __m512i;
  using Sums = __m512i;
  using Ints = __m512i;
  using Floats = __m512;

  static constexpr int64_t kFetched = 4096;  // bytes ahead
  static constexpr int kFew = 4;
  static constexpr int kMany = 16;
  static constexpr int kBlocks[4] = {4, 2, 1, 1};
  static constexpr int kTile[4] = {6, 6, 8, 6};

  static HARDY_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_NTA); }
  static HARDY_INLINE Line line(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static HARDY_INLINE Bytes bytes(const uint8_t* p) { return _mm512_load_si512(p); }
  static HARDY_INLINE void store(uint8_t* p, Bytes v) { _mm512_store_si512(p, v); }
  template <int F>
  static HARDY_INLINE Bytes field(Line v) {
    return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(3 << (2 * F))));
  }
  template <int F>
  static HARDY_INLINE Bytes codes(Line v) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 2 * F), _mm512_set1_epi8(3));
  }
  static HARDY_INLINE Quad quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static HARDY_INLINE Sums no_sums() { return _mm512_setzero_si512(); }
  static HARDY_INLINE Sums dot(Sums s, Bytes b, Quad q) {
#ifdef __GNUC__
    // As _mm512_dpbusd_epi32, of whose result GCC 12 makes copies all over the innermost loop.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(b), "v"(q));
    return s;
#else
    return _mm512_dpbusd_epi32(s, b, q);
#endif
  }
  template <int F>
  static HARDY_INLINE Ints total(Sums s) {
    return _mm512_srai_epi32(s, 2 * F);
  }
  static HARDY_INLINE Ints plain(Sums s) { return s; }
  static HARDY_INLINE Ints ints(int32_t v) { return _mm512_set1_epi32(v); }
  static HARDY_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static HARDY_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  static HARDY_INLINE Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  static HARDY_INLINE Floats floats(float v) { return _mm512_set1_ps(v); }
  static HARDY_INLINE Floats halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static HARDY_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static HARDY_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static HARDY_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
};

#include "trit_product_loops.h"

#include "decode_step_loops.h"
#include "rotation_loops.h"

}  // namespace

const Path kAvx512{"avx512", quantize, product, add_rms_norm, attend, gate, rotate};

}  // namespace hardy
