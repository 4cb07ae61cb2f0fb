// The loops of the products, the same for every instruction set. Each set's file includes this inside its own
// unnamed namespace and gives a struct `Isa` of 16-row vectors:
//
//   Line    64 bytes of packed codes           Quad   four activations, for every row
//   Bytes   one code per byte, 16 rows x 4     Sums   16 running sums of dot products of four
//   Ints    16 int32                           Floats 16 float32
//
//   field<F>(line)  the codes of field F, times a factor of the set's choice, which total<F>(sums) takes out again;
//   codes<F>(line)  the same without a factor, whose sums plain(sums) reads.
//   kFewRows, kFewTokens: blocks and tokens that are worked on together straight from the lines;
//   kBlocks[planes - 1], kTile[planes - 1]: the same, from unpacked codes. kFewTokens tokens are then served
//   by one block at a time.

#include "trit_product_forms.h"

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline void quantize_group(const float* x, int64_t length, int64_t padded, int8_t* codes, float& scale, int32_t& sum) {
  uint32_t top = 0;
  for (int64_t i = 0; i < length; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  float largest;
  std::memcpy(&largest, &top, 4);
  const bool finite = top < 0x7f800000u;
  if (!finite || largest < 0x1p-100f) {
    std::memset(codes, 0, static_cast<size_t>(padded));
    scale = finite ? 0.0f : kNan;
    sum = 0;
    return;
  }
  const float steps = 127.0f / largest;
  scale = largest / 127.0f;
  int32_t total = 0;
  for (int64_t i = 0; i < length; ++i) {
    // At 1.5 * 2^23 floats are integers: the addition rounds, half to even.
    const float shifted = x[i] * steps + 12582912.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    const int32_t code = bits - 0x4b400000;
    codes[i] = static_cast<int8_t>(code);
    total += code;
  }
  for (int64_t i = length; i < padded; ++i) codes[i] = 0;
  sum = total;
}

void quantize(const PlaneMatrix& m, const float* x, int64_t token_begin, int64_t token_end, const Activations& a) {
  const int64_t groups = m.groups(), padded = m.padded_group();
  for (int64_t t = token_begin; t < token_end; ++t) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * m.group_size, rest = m.width - begin, at = t * groups + g;
      quantize_group(x + t * m.width + begin, rest < m.group_size ? rest : m.group_size, padded,
                     a.codes + at * padded, a.scales[at], a.sums[at]);
    }
  }
}

// Dot products of R blocks and T tokens over the lines `begin` to `end`, so many that Sums hold, that hold `Planes` planes
// each: one has four quads of inputs in the fields, two have two quads. A block's lines are `stride` bytes apart.
template <int Planes, int R, int T>
HARDY_INLINE void sum_lines(const uint8_t* codes, int64_t stride, const int8_t* const (&activations)[T], int64_t begin,
                            int64_t end, Isa::Ints (&total)[R][T][Planes]) {
  constexpr int kQuads = 4 / Planes;
  Isa::Sums sums[R][T][4];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t)
      for (int f = 0; f < 4; ++f) sums[r][t][f] = Isa::no_sums();
  for (int64_t l = begin; l < end; ++l) {
    Isa::Quad quads[T][kQuads];
    for (int t = 0; t < T; ++t)
      for (int q = 0; q < kQuads; ++q) quads[t][q] = Isa::quad(activations[t] + (l * kQuads + q) * 4);
    for (int r = 0; r < R; ++r) {
      const uint8_t* at = codes + l * stride + r * kLine;
      Isa::prefetch(at + Isa::kFetched);
      const Isa::Line line = Isa::line(at);
      const Isa::Bytes f0 = Isa::field<0>(line), f1 = Isa::field<1>(line);
      const Isa::Bytes f2 = Isa::field<2>(line), f3 = Isa::field<3>(line);
      for (int t = 0; t < T; ++t) {
        sums[r][t][0] = Isa::dot(sums[r][t][0], f0, quads[t][0]);
        sums[r][t][1] = Isa::dot(sums[r][t][1], f1, quads[t][1 / Planes]);
        sums[r][t][2] = Isa::dot(sums[r][t][2], f2, quads[t][2 / Planes]);
        sums[r][t][3] = Isa::dot(sums[r][t][3], f3, quads[t][3 / Planes]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) {
      const Isa::Ints even = Isa::add(Isa::total<0>(sums[r][t][0]), Isa::total<2>(sums[r][t][2]));
      const Isa::Ints odd = Isa::add(Isa::total<1>(sums[r][t][1]), Isa::total<3>(sums[r][t][3]));
      if constexpr (Planes == 2) {
        total[r][t][0] = even;
        total[r][t][1] = odd;
      } else {
        total[r][t][0] = Isa::add(even, odd);
      }
    }
  }
}

// The same over any number of lines.
template <int Planes, int64_t kLongest, int R, int T>
HARDY_INLINE void sum_all_lines(const uint8_t* codes, int64_t stride, const int8_t* const (&activations)[T],
                                int64_t lines, Isa::Ints (&total)[R][T][Planes]) {
  sum_lines<Planes>(codes, stride, activations, 0, lines < kLongest ? lines : kLongest, total);
  for (int64_t begin = kLongest; begin < lines; begin += kLongest) {
    Isa::Ints more[R][T][Planes];
    sum_lines<Planes>(codes, stride, activations, begin, begin + kLongest < lines ? begin + kLongest : lines, more);
    for (int r = 0; r < R; ++r)
      for (int t = 0; t < T; ++t)
        for (int p = 0; p < Planes; ++p) total[r][t][p] = Isa::add(total[r][t][p], more[r][t][p]);
  }
}

HARDY_INLINE void store_rows(const PlaneMatrix& m, float* output, int64_t token, int64_t block, Isa::Floats value) {
  const int64_t row = block * kRows;
  if (row + kRows <= m.rows) {
    Isa::store(output + token * m.rows + row, value);
  } else {
    float last[kRows];
    Isa::store(last, value);
    for (int64_t i = 0; row + i < m.rows; ++i) output[token * m.rows + row + i] = last[i];
  }
}

// R blocks from `block` on and T tokens from `token` on, straight from the lines.
template <class F, int R, int T>
void few(const PlaneMatrix& m, const Activations& a, int64_t token, int64_t block, float* output) {
  constexpr int kPlanes = F::kPlanes;
  const int64_t groups = m.groups(), padded = m.padded_group(), pairs = m.pair_lines();
  const int64_t stride = m.neighbours(block) * kLine;
  Isa::Floats result[R][T];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) result[r][t] = Isa::floats(0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* codes = m.codes_at(block, g);
    const int8_t* activations[T];
    for (int t = 0; t < T; ++t) activations[t] = a.codes + ((token + t) * groups + g) * padded;
    Isa::Ints total[R][T][kPlanes];
    for (int set = 0; set < kPlanes / 2; ++set) {
      Isa::Ints pair[R][T][2];
      sum_all_lines<2, F::kLongest>(codes, stride, activations, pairs, pair);
      codes += pairs * stride;
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t)
          for (int p = 0; p < 2; ++p) total[r][t][2 * set + p] = pair[r][t][p];
    }
    if constexpr (kPlanes % 2) {
      Isa::Ints single[R][T][1];
      sum_all_lines<1, F::kLongest>(codes, stride, activations, m.single_lines(), single);
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) total[r][t][kPlanes - 1] = single[r][t][0];
    }
    const uint16_t* halves = m.scales_at(block, g);
    for (int r = 0; r < R; ++r) {
      F form;
      form.load(halves + r * F::kVectors * kRows);
      for (int t = 0; t < T; ++t) {
        const int64_t at = (token + t) * groups + g;
        result[r][t] = form.add(result[r][t], total[r][t], a.scales[at], a.sums[at]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) store_rows(m, output, token + t, block + r, result[r][t]);
}

// T tokens and all blocks of a superblock.
template <class F, int R, int T>
void few_blocks(const PlaneMatrix& m, const Activations& a, int64_t token, int64_t begin, int64_t end, float* output) {
  int64_t block = begin;
  for (; block + R <= end; block += R) few<F, R, T>(m, a, token, block, output);
  if constexpr (R > 1)
    for (; block < end; ++block) few<F, 1, T>(m, a, token, block, output);
}

template <class F>
void few_tokens(const PlaneMatrix& m, const Activations& a, int64_t tokens, int64_t begin, int64_t end,
                float* output) {
  int64_t t = 0;
  if constexpr (Isa::kFew == 4)
    for (; t + 4 <= tokens; t += 4) few_blocks<F, 1, 4>(m, a, t, begin, end, output);
  if constexpr (Isa::kFew >= 2)
    for (; t + 2 <= tokens; t += 2) few_blocks<F, Isa::kFew / 2, 2>(m, a, t, begin, end, output);
  for (; t < tokens; ++t) few_blocks<F, Isa::kFew, 1>(m, a, t, begin, end, output);
}

// The codes of `quads` quads from `first` on, one to a byte: (quads, R, Planes, 64). `first` and, but for the end of
// the group, `quads` are multiples of four.
template <int Planes, int R>
void unpack(const PlaneMatrix& m, int64_t block, int64_t group, int64_t first, int64_t quads, uint8_t* codes) {
  constexpr int64_t kStep = R * Planes * kLine;
  const int64_t stride = m.neighbours(block) * kLine;
  for (int r = 0; r < R; ++r) {
    const uint8_t* from = m.codes_at(block, group) + r * kLine;
    for (int set = 0; set < Planes / 2; ++set) {
      for (int64_t q = 0; q < quads; q += 2) {
        const Isa::Line line = Isa::line(from + (first + q) / 2 * stride);
        uint8_t* to = codes + ((q * R + r) * Planes + 2 * set) * kLine;
        Isa::store(to, Isa::codes<0>(line));
        Isa::store(to + kLine, Isa::codes<1>(line));
        Isa::store(to + kStep, Isa::codes<2>(line));
        Isa::store(to + kStep + kLine, Isa::codes<3>(line));
      }
      from += m.pair_lines() * stride;
    }
    if constexpr (Planes % 2) {
      for (int64_t q = 0; q < quads; q += 4) {
        const Isa::Line line = Isa::line(from + (first + q) / 4 * stride);
        uint8_t* to = codes + ((q * R + r) * Planes + Planes - 1) * kLine;
        Isa::store(to, Isa::codes<0>(line));
        Isa::store(to + kStep, Isa::codes<1>(line));
        Isa::store(to + 2 * kStep, Isa::codes<2>(line));
        Isa::store(to + 3 * kStep, Isa::codes<3>(line));
      }
    }
  }
}

// What is worked on of a group at a time: its quads `first` to `first + quads`, for many tokens.
struct Stretch {
  const uint8_t* codes;  // as `unpack` leaves them
  int64_t group, first, quads;
  bool opens, closes;  // the group
};

// What a tile of tokens adds to. `totals` keep the sums of a group that takes several stretches; all that follow are
// of the tile's first token.
template <class F, int R>
struct Results {
  const F (&forms)[R];
  Isa::Ints (*totals)[R][F::kPlanes];
  Isa::Floats (*sums)[R];
};

template <class F, int R, int T, bool Whole>
HARDY_INLINE void tile(const PlaneMatrix& m, const Activations& a, int64_t token, const Stretch& stretch,
                       const Results<F, R>& results) {
  constexpr int Planes = F::kPlanes;
  const int64_t groups = m.groups(), padded = m.padded_group();
  const int8_t* activations[T];
  for (int t = 0; t < T; ++t)
    activations[t] = a.codes + ((token + t) * groups + stretch.group) * padded + stretch.first * 4;
  Isa::Sums sums[R][T][Planes];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t)
      for (int p = 0; p < Planes; ++p) sums[r][t][p] = Isa::no_sums();
  for (int64_t q = 0; q < stretch.quads; ++q) {
    Isa::Bytes codes[R][Planes];
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < Planes; ++p) codes[r][p] = Isa::bytes(stretch.codes + ((q * R + r) * Planes + p) * kLine);
    for (int t = 0; t < T; ++t) {
      const Isa::Quad quad = Isa::quad(activations[t] + q * 4);
      for (int r = 0; r < R; ++r)
        for (int p = 0; p < Planes; ++p) sums[r][t][p] = Isa::dot(sums[r][t][p], codes[r][p], quad);
    }
  }
  HARDY_UNROLL
  for (int t = 0; t < T; ++t) {
    const int64_t at = (token + t) * groups + stretch.group;
    HARDY_UNROLL
    for (int r = 0; r < R; ++r) {
      Isa::Ints total[Planes];
      for (int p = 0; p < Planes; ++p) {
        total[p] = Isa::plain(sums[r][t][p]);
        if constexpr (!Whole) {
          if (!stretch.opens) total[p] = Isa::add(total[p], results.totals[t][r][p]);
          results.totals[t][r][p] = total[p];
        }
      }
      if (Whole || stretch.closes)
        results.sums[t][r] = results.forms[r].add(results.sums[t][r], total, a.scales[at], a.sums[at]);
    }
  }
}

template <class F, int R, bool Whole>
void tiles(const PlaneMatrix& m, const Activations& a, int64_t token, int64_t count, const Stretch& stretch,
           Results<F, R> results) {
  constexpr int kTile = Isa::kTile[F::kPlanes - 1];
  const int64_t end = token + count;
  const auto step = [&](int64_t tokens) {
    token += tokens;
    results.totals += tokens;
    results.sums += tokens;
  };
  for (; token + kTile <= end; step(kTile)) tile<F, R, kTile, Whole>(m, a, token, stretch, results);
  if constexpr (kTile > 4)
    for (; token + 4 <= end; step(4)) tile<F, R, 4, Whole>(m, a, token, stretch, results);
  if constexpr (kTile > 2)
    for (; token + 2 <= end; step(2)) tile<F, R, 2, Whole>(m, a, token, stretch, results);
  for (; token < end; step(1)) tile<F, R, 1, Whole>(m, a, token, stretch, results);
}

// R blocks from `block` on, all tokens, from codes that are unpacked once for many tokens.
template <class F, int R>
void many(const PlaneMatrix& m, const Activations& a, int64_t tokens, int64_t block, float* output) {
  constexpr int Planes = F::kPlanes;
  constexpr int64_t kLongest = F::kLongest;
  alignas(64) uint8_t codes[kLongest * R * Planes * kLine];
  Isa::Floats sums[kTokensAtOnce][R];
  Isa::Ints totals[kTokensAtOnce][R][Planes];
  F forms[R];
  const Results<F, R> results{forms, totals, sums};
  const int64_t groups = m.groups(), quads = m.padded_group() / 4;
  for (int64_t begin = 0; begin < tokens; begin += kTokensAtOnce) {
    const int64_t count = tokens - begin < kTokensAtOnce ? tokens - begin : kTokensAtOnce;
    for (int64_t t = 0; t < count; ++t)
      for (int r = 0; r < R; ++r) sums[t][r] = Isa::floats(0.0f);
    for (int64_t g = 0; g < groups; ++g) {
      const uint16_t* halves = m.scales_at(block, g);
      for (int r = 0; r < R; ++r) forms[r].load(halves + r * F::kVectors * kRows);
      if (quads <= kLongest) {
        unpack<Planes, R>(m, block, g, 0, quads, codes);
        tiles<F, R, true>(m, a, begin, count, {codes, g, 0, quads, true, true}, results);
        continue;
      }
      for (int64_t first = 0; first < quads; first += kLongest) {
        const int64_t here = quads - first < kLongest ? quads - first : kLongest;
        unpack<Planes, R>(m, block, g, first, here, codes);
        const Stretch stretch{codes, g, first, here, first == 0, first + here == quads};
        tiles<F, R, false>(m, a, begin, count, stretch, results);
      }
    }
    for (int64_t t = 0; t < count; ++t)
      for (int r = 0; r < R; ++r) store_rows(m, output, begin + t, block + r, sums[t][r]);
  }
}

// All tokens and all blocks of a superblock.
template <class F>
void many_tokens(const PlaneMatrix& m, const Activations& a, int64_t tokens, int64_t begin, int64_t end,
                 float* output) {
  constexpr int kTogether = Isa::kBlocks[F::kPlanes - 1];
  int64_t block = begin;
  for (; block + kTogether <= end; block += kTogether) many<F, kTogether>(m, a, tokens, block, output);
  if constexpr (kTogether > 1)
    for (; block < end; ++block) many<F, 1>(m, a, tokens, block, output);
}

// `begin` is the first of a superblock, and `end` one behind the last.
template <class F>
void product_of(const PlaneMatrix& m, const Activations& a, int64_t tokens, int64_t begin, int64_t end,
                float* output) {
  const auto work = tokens < Isa::kMany ? few_tokens<F> : many_tokens<F>;
  for (int64_t block = begin; block < end; block += kSuperblock)
    work(m, a, tokens, block, block + m.neighbours(block), output);
}

void product(const PlaneMatrix& m, const Activations& a, int64_t tokens, int64_t begin, int64_t end, float* output) {
  const bool grid = m.form == Form::kGrid;
  const auto work = m.planes == 1   ? (grid ? product_of<Grid<1>> : product_of<Trits<1>>)
                    : m.planes == 2 ? (grid ? product_of<Grid<2>> : product_of<Trits<2>>)
                    : m.planes == 3 ? (grid ? product_of<Grid<3>> : product_of<Trits<3>>)
                                    : product_of<Grid<4>>;
  work(m, a, tokens, begin, end, output);
}
