// The trit product in plain C++, for processors without a path of their own and as the standard of the others.
#include "trit_product.h"

namespace hardy {
namespace {

struct Isa {
  struct Bytes {
    uint8_t v[kLine];
  };
  struct Ints {
    int32_t v[kRows];
  };
  struct Floats {
    float v[kRows];
  };
  struct Quad {
    int8_t v[4];
  };
  using Line = Bytes;
  using Sums = Ints;

  static constexpr int64_t kFetched = 0;
  static constexpr int kFew = 1;
  static constexpr int kMany = 8;
  static constexpr int kBlocks[4] = {1, 1, 1, 1};
  static constexpr int kTile[4] = {1, 1, 1, 1};

  static void prefetch(const uint8_t*) {}
  static HARDY_INLINE Line line(const uint8_t* p) {
    Line line;
    std::memcpy(line.v, p, kLine);
    return line;
  }
  static HARDY_INLINE Bytes bytes(const uint8_t* p) { return line(p); }
  static HARDY_INLINE void store(uint8_t* p, const Bytes& b) { std::memcpy(p, b.v, kLine); }
  template <int F>
  static HARDY_INLINE Bytes codes(const Line& line) {
    Bytes bytes;
    for (int i = 0; i < kLine; ++i) bytes.v[i] = (line.v[i] >> (2 * F)) & 3;
    return bytes;
  }
  template <int F>
  static HARDY_INLINE Bytes field(const Line& line) {
    return codes<F>(line);
  }
  static HARDY_INLINE Quad quad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static HARDY_INLINE Sums no_sums() { return ints(0); }
  static HARDY_INLINE Sums dot(Sums s, const Bytes& b, const Quad& q) {
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < 4; ++j) s.v[i] += b.v[4 * i + j] * q.v[j];
    return s;
  }
  static HARDY_INLINE Ints plain(const Sums& s) { return s; }
  template <int F>
  static HARDY_INLINE Ints total(const Sums& s) {
    return s;
  }
  static HARDY_INLINE Ints ints(int32_t value) {
    Ints all;
    for (int32_t& v : all.v) v = value;
    return all;
  }
  static HARDY_INLINE Ints add(Ints a, const Ints& b) {
    for (int i = 0; i < kRows; ++i) a.v[i] += b.v[i];
    return a;
  }
  static HARDY_INLINE Ints sub(Ints a, const Ints& b) {
    for (int i = 0; i < kRows; ++i) a.v[i] -= b.v[i];
    return a;
  }
  static HARDY_INLINE Floats to_floats(const Ints& a) {
    Floats f;
    for (int i = 0; i < kRows; ++i) f.v[i] = static_cast<float>(a.v[i]);
    return f;
  }
  static HARDY_INLINE Floats floats(float value) {
    Floats all;
    for (float& v : all.v) v = value;
    return all;
  }
  // float16 to float32, exact: the bits in their new place, and the exponent's bias made up by a product.
  static HARDY_INLINE Floats halves(const uint16_t* p) {
    Floats f;
    for (int i = 0; i < kRows; ++i) {
      const uint32_t magnitude = static_cast<uint32_t>(p[i] & 0x7fff) << 13;
      std::memcpy(&f.v[i], &magnitude, 4);
      f.v[i] *= 0x1p112f;
      if ((p[i] & 0x7c00) == 0x7c00) f.v[i] = p[i] & 0x3ff ? kNan : kInfinity;
      if (p[i] & 0x8000) f.v[i] = -f.v[i];
    }
    return f;
  }
  static HARDY_INLINE Floats add(Floats a, const Floats& b) {
    for (int i = 0; i < kRows; ++i) a.v[i] += b.v[i];
    return a;
  }
  static HARDY_INLINE Floats mul(Floats a, const Floats& b) {
    for (int i = 0; i < kRows; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static HARDY_INLINE void store(float* p, const Floats& a) { std::memcpy(p, a.v, sizeof a.v); }

  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
};

#include "trit_product_loops.h"

#include "decode_step_loops.h"
#include "rotation_loops.h"

}  // namespace

const Path kScalar{"scalar", quantize, product, add_rms_norm, attend, gate, rotate};

}  // namespace hardy
