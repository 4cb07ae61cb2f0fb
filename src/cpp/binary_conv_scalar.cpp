// The binary convolution in plain C++, for processors without a path of their own and as the standard of the others.
#include "binary_conv.h"

namespace hardy {
namespace {

HARDY_INLINE uint64_t bits_of(uint64_t v) {
#ifdef __GNUC__
  return static_cast<uint64_t>(__builtin_popcountll(v));
#else
  v -= v >> 1 & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
  return ((v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56;
#endif
}

struct Isa {
  struct Words {
    uint64_t v[kLanes];
  };
  struct Floats {
    float v[kLanes];
  };
  static constexpr int kSums = 4;

  static HARDY_INLINE Words zero() { return {}; }
  static HARDY_INLINE Words load(const uint64_t* p) {
    Words w;
    std::memcpy(w.v, p, sizeof w.v);
    return w;
  }
  static HARDY_INLINE Words count(Words sum, const Words& a, uint64_t b) {
    for (int i = 0; i < kLanes; ++i) sum.v[i] += bits_of(a.v[i] & b);
    return sum;
  }
  static HARDY_INLINE Words count(Words sum, const Words& a) { return count(sum, a, ~uint64_t{0}); }
  static HARDY_INLINE Words add_shifted(Words sum, const Words& a, int shift) {
    for (int i = 0; i < kLanes; ++i) sum.v[i] += a.v[i] << shift;
    return sum;
  }
  // 2 set - all - less, as floats.
  static HARDY_INLINE Floats dot(const Words& set, const Words& all, const int64_t* less) {
    Floats y;
    for (int i = 0; i < kLanes; ++i)
      y.v[i] = static_cast<float>(2 * static_cast<int64_t>(set.v[i]) - static_cast<int64_t>(all.v[i]) - *less);
    return y;
  }
  static HARDY_INLINE Floats affine(const Floats& dot, const Floats& column, float scale, float offset, float bias) {
    Floats y;
    for (int i = 0; i < kLanes; ++i) y.v[i] = scale * dot.v[i] + offset * column.v[i] + bias;
    return y;
  }
  static HARDY_INLINE void store(float* p, const Floats& y, int count) {
    for (int i = 0; i < count; ++i) p[i] = y.v[i];
  }
  static HARDY_INLINE void store_apart(float* p, int64_t step, const Floats& y, int count) {
    for (int i = 0; i < count; ++i) p[i * step] = y.v[i];
  }
};

#include "binary_conv_loops.h"

}  // namespace

const BinaryPath kBinaryScalar{quantize, product};

}  // namespace hardy
