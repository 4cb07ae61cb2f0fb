// What the two NEON paths share: 16 rows as four registers of four. Each file includes this inside its own unnamed
// namespace and adds `dot`, the one thing in which they differ.

struct Registers {
  using Bytes = uint8x16x4_t;  // rows 0..3, 4..7, 8..11, 12..15, four codes each
  using Line = Bytes;
  using Ints = int32x4x4_t;
  using Sums = Ints;
  using Floats = float32x4x4_t;
  using Quad = int8x16_t;

  static constexpr int64_t kFetched = 1024;  // bytes ahead
  static constexpr int kFew = 1;
  static constexpr int kMany = 4;
  static constexpr int kBlocks[4] = {1, 1, 1, 1};
  static constexpr int kTile[4] = {4, 2, 1, 1};

  template <class Result, class Work>
  static HARDY_INLINE Result each(Work work) {
    return {{work(0), work(1), work(2), work(3)}};
  }

  static HARDY_INLINE void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
  static HARDY_INLINE Line line(const uint8_t* p) {
    return each<Line>([&](int i) { return vld1q_u8(p + 16 * i); });
  }
  static HARDY_INLINE Bytes bytes(const uint8_t* p) { return line(p); }
  static HARDY_INLINE void store(uint8_t* p, Bytes v) {
    for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, v.val[i]);
  }
  template <int F>
  static HARDY_INLINE Bytes codes(Line v) {
    const uint8x16_t mask = vdupq_n_u8(3);
    if constexpr (F == 0) return each<Bytes>([&](int i) { return vandq_u8(v.val[i], mask); });
    if constexpr (F == 3) return each<Bytes>([&](int i) { return vshrq_n_u8(v.val[i], 6); });
    return each<Bytes>([&](int i) { return vandq_u8(vshrq_n_u8(v.val[i], F ? 2 * F : 2), mask); });
  }
  template <int F>
  static HARDY_INLINE Bytes field(Line v) {
    return codes<F>(v);
  }
  static HARDY_INLINE Quad quad(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static HARDY_INLINE Sums no_sums() { return ints(0); }
  static HARDY_INLINE Ints plain(Sums s) { return s; }
  template <int F>
  static HARDY_INLINE Ints total(Sums s) {
    return s;
  }
  static HARDY_INLINE Ints ints(int32_t v) {
    return each<Ints>([&](int) { return vdupq_n_s32(v); });
  }
  static HARDY_INLINE Ints add(Ints a, Ints b) {
    return each<Ints>([&](int i) { return vaddq_s32(a.val[i], b.val[i]); });
  }
  static HARDY_INLINE Ints sub(Ints a, Ints b) {
    return each<Ints>([&](int i) { return vsubq_s32(a.val[i], b.val[i]); });
  }
  static HARDY_INLINE Floats to_floats(Ints v) {
    return each<Floats>([&](int i) { return vcvtq_f32_s32(v.val[i]); });
  }
  static HARDY_INLINE Floats floats(float v) {
    return each<Floats>([&](int) { return vdupq_n_f32(v); });
  }
  static HARDY_INLINE Floats halves(const uint16_t* p) {
    return each<Floats>([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static HARDY_INLINE Floats add(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vaddq_f32(a.val[i], b.val[i]); });
  }
  static HARDY_INLINE Floats mul(Floats a, Floats b) {
    return each<Floats>([&](int i) { return vmulq_f32(a.val[i], b.val[i]); });
  }
  static HARDY_INLINE void store(float* p, Floats v) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.val[i]);
  }
};
