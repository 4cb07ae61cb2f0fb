// The binary convolution with NEON, which counts the bits of bytes.
#include "binary_conv.h"

#include <arm_neon.h>

namespace hardy {
namespace {

struct Isa {
  struct Words {
    uint64x2_t v[4];
  };
  struct Floats {
    float v[kLanes];
  };
  static constexpr int kSums = 4;

  static HARDY_INLINE Words zero() {
    const uint64x2_t none = vdupq_n_u64(0);
    return {{none, none, none, none}};
  }
  static HARDY_INLINE Words load(const uint64_t* p) {
    return {{vld1q_u64(p), vld1q_u64(p + 2), vld1q_u64(p + 4), vld1q_u64(p + 6)}};
  }
  static HARDY_INLINE Words count(Words sum, const Words& a, uint64_t b) {
    const uint64x2_t all = vdupq_n_u64(b);
    for (int i = 0; i < 4; ++i) {
      const uint8x16_t bits = vcntq_u8(vreinterpretq_u8_u64(vandq_u64(a.v[i], all)));
      sum.v[i] = vpadalq_u32(sum.v[i], vpaddlq_u16(vpaddlq_u8(bits)));
    }
    return sum;
  }
  static HARDY_INLINE Words count(Words sum, const Words& a) { return count(sum, a, ~uint64_t{0}); }
  static HARDY_INLINE Words add_shifted(Words sum, const Words& a, int shift) {
    const int64x2_t by = vdupq_n_s64(shift);
    for (int i = 0; i < 4; ++i) sum.v[i] = vaddq_u64(sum.v[i], vshlq_u64(a.v[i], by));
    return sum;
  }
  // 2 set - all - less, as floats.
  static HARDY_INLINE Floats dot(const Words& set, const Words& all, const int64_t* less) {
    uint64_t some[kLanes], ones[kLanes];
    for (int i = 0; i < 4; ++i) {
      vst1q_u64(some + 2 * i, set.v[i]);
      vst1q_u64(ones + 2 * i, all.v[i]);
    }
    Floats y;
    for (int i = 0; i < kLanes; ++i)
      y.v[i] = static_cast<float>(2 * static_cast<int64_t>(some[i]) - static_cast<int64_t>(ones[i]) - *less);
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

const BinaryPath kBinaryNeon{quantize, product};

}  // namespace hardy
