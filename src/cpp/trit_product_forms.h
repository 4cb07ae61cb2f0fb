// Included by trit_product_loops.h, inside of its namespace and for its `Isa`.

// What a matrix of planes stands for. `kLongest`: sums of at most so many dot products of four codes and activations
// -127..127 fit any Sums, as with 16 bits each takes two of the products. `load` takes a group's numbers of 16 rows, and
// `add` gives result + scale_of_activations * what the group's totals mean, rounded after every step.

// Codes 0..2 for trits: the sum over planes of scale * (total - sum of activations).
template <int P>
struct Trits {
  static constexpr int kPlanes = P, kVectors = P;
  static constexpr int64_t kLongest = 64;
  Isa::Floats scales[P];

  HARDY_INLINE void load(const uint16_t* halves) {
    for (int p = 0; p < P; ++p) scales[p] = Isa::halves(halves + p * kRows);
  }
  HARDY_INLINE Isa::Floats add(Isa::Floats result, const Isa::Ints (&total)[P], float scale, int32_t sum) const {
    const Isa::Ints shift = Isa::ints(sum);
    Isa::Floats group = Isa::mul(scales[0], Isa::to_floats(Isa::sub(total[0], shift)));
    for (int p = 1; p < P; ++p)
      group = Isa::add(group, Isa::mul(scales[p], Isa::to_floats(Isa::sub(total[p], shift))));
    return Isa::add(result, Isa::mul(Isa::floats(scale), group));
  }
};

// Digits 0..3 of codes on a grid: scale * (total of codes - zero point * sum of activations).
template <int P>
struct Grid {
  static constexpr int kPlanes = P, kVectors = 2;
  static constexpr int64_t kLongest = 40;
  Isa::Floats scale_of_row, zero_point;

  HARDY_INLINE void load(const uint16_t* halves) {
    scale_of_row = Isa::halves(halves);
    zero_point = Isa::halves(halves + kRows);
  }
  HARDY_INLINE Isa::Floats add(Isa::Floats result, const Isa::Ints (&total)[P], float scale, int32_t sum) const {
    Isa::Ints code = total[P - 1];
    for (int p = P - 2; p >= 0; --p) {
      code = Isa::add(code, code);
      code = Isa::add(Isa::add(code, code), total[p]);
    }
    const Isa::Floats shift = Isa::mul(zero_point, Isa::floats(-static_cast<float>(sum)));
    const Isa::Floats group = Isa::mul(scale_of_row, Isa::add(Isa::to_floats(code), shift));
    return Isa::add(result, Isa::mul(Isa::floats(scale), group));
  }
};
