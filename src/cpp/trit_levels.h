// One group of the solver of trit-planes: the regression for its scales, and the levels that scales make.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace hardy {

constexpr double kRidge = 1e-8, kLargestRidge = 1.0, kLargestCondition = 1e6;

// What a sum of planes needs to know of a weight's trits: one of each pair of opposite ones.
template <int K>
using Trits = std::array<int8_t, K>;
template <int K>
constexpr int kCandidates = K == 1 ? 2 : K == 2 ? 5 : 14;

// In the order in which ties are settled: fewer trits, then later planes, then plus before minus.
template <int K>
const std::array<Trits<K>, kCandidates<K>>& candidates() {
  static const auto all = [] {
    std::array<Trits<K>, kCandidates<K>> found{};
    int count = 0, codes = 1;
    for (int k = 0; k < K; ++k) codes *= 3;
    for (int code = 0; code < codes; ++code) {
      Trits<K> t;
      for (int k = K - 1, rest = code; k >= 0; --k, rest /= 3) t[k] = static_cast<int8_t>(rest % 3 - 1);
      const auto first = std::find_if(t.begin(), t.end(), [](int8_t trit) { return trit != 0; });
      if (first == t.end() || *first > 0) found[count++] = t;
    }
    const auto key = [](const Trits<K>& t) {
      std::array<int, 1 + 2 * K> values{};
      for (int k = 0; k < K; ++k) {
        values[0] += t[k] != 0;
        values[1 + k] = t[k] != 0;
        values[1 + K + k] = -t[k];
      }
      return values;
    };
    std::sort(found.begin(), found.end(), [&](const auto& a, const auto& b) { return key(a) < key(b); });
    return found;
  }();
  return all;
}

// What the regression needs to know of a group: S'S and S'w for the planes S.
template <int K>
struct Moments {
  double gram[K][K] = {}, weights[K] = {};

  void add(const Trits<K>& trits, double count, double sum) {
    for (int i = 0; i < K; ++i) {
      weights[i] += trits[i] * sum;
      for (int j = 0; j < K; ++j) gram[i][j] += trits[i] * trits[j] * count;
    }
  }
};

// Adjugate and determinant of gram + ridge I, from coefficients that are integers and so exact.
template <int K>
struct Adjugate {
  double cofactors[K][K] = {}, flipped[K][K] = {};
  double determinant, trace = 0, minors = 0;

  explicit Adjugate(const double (&g)[K][K]) {
    for (int i = 0; i < K; ++i) trace += g[i][i];
    for (int i = 0; i < K; ++i)
      for (int j = 0; j < K; ++j) flipped[i][j] = (i == j ? trace : 0) - g[i][j];
    if constexpr (K == 1) {
      determinant = g[0][0];
    } else if constexpr (K == 2) {
      determinant = g[0][0] * g[1][1] - g[0][1] * g[0][1];
    } else {
      for (int i = 0; i < K; ++i)
        for (int j = 0; j < K; ++j) {
          const int a = (i + 1) % 3, b = (i + 2) % 3, c = (j + 1) % 3, d = (j + 2) % 3;
          cofactors[i][j] = g[a][c] * g[b][d] - g[a][d] * g[b][c];
        }
      determinant = 0;
      for (int i = 0; i < K; ++i) {
        minors += cofactors[i][i];
        determinant += g[i][0] * cofactors[i][0];
      }
    }
  }

  double at(int i, int j, double ridge) const {
    const double one = i == j;
    if constexpr (K == 1) return 1;
    if constexpr (K == 2) return flipped[i][j] + ridge * one;
    return cofactors[i][j] + ridge * flipped[i][j] + ridge * ridge * one;
  }

  double determinant_at(double ridge) const {
    if constexpr (K == 1) return determinant + ridge;
    if constexpr (K == 2) return determinant + ridge * trace + ridge * ridge;
    return determinant + ridge * minors + ridge * ridge * trace + ridge * ridge * ridge;
  }
};

template <int K>
void ridge_scales(const Moments<K>& moments, double& ridge, double (&scales)[K]) {
  const Adjugate<K> adjugate(moments.gram);
  const auto condition = [&] {
    double of_sum = 0, of_adjugate = 0;
    for (int i = 0; i < K; ++i)
      for (int j = 0; j < K; ++j) {
        const double sum = moments.gram[i][j] + (i == j ? ridge : 0), other = adjugate.at(i, j, ridge);
        of_sum += sum * sum;
        of_adjugate += other * other;
      }
    return std::sqrt(of_sum) * std::sqrt(of_adjugate) / adjugate.determinant_at(ridge);
  };
  while (ridge < kLargestRidge && condition() > kLargestCondition) ridge = std::min(10 * ridge, kLargestRidge);
  const double determinant = adjugate.determinant_at(ridge);
  for (int i = 0; i < K; ++i) {
    double total = 0;
    for (int j = 0; j < K; ++j) total += adjugate.at(i, j, ridge) * moments.weights[j];
    scales[i] = total / determinant;
  }
}

// The magnitudes that scales can stand for, ascending, each once, with the trits that stand for it above zero.
template <int K>
struct Levels {
  int count = 0;
  double magnitude[kCandidates<K>];
  Trits<K> trits[kCandidates<K>];

  Levels() = default;
  explicit Levels(const double (&scales)[K]) {
    int place[kCandidates<K>];
    double level[kCandidates<K>];
    for (int c = 0; c < kCandidates<K>; ++c) {
      level[c] = 0;
      for (int k = 0; k < K; ++k) level[c] += scales[k] * candidates<K>()[c][k];
      int at = c;
      for (; at > 0 && std::abs(level[place[at - 1]]) > std::abs(level[c]); --at) place[at] = place[at - 1];
      place[at] = c;
    }
    for (int at = 0; at < kCandidates<K>; ++at) {
      const int c = place[at];
      if (count > 0 && std::abs(level[c]) == magnitude[count - 1]) continue;  // of a tie the first candidate is taken
      magnitude[count] = std::abs(level[c]);
      order_[count] = c;
      for (int k = 0; k < K; ++k)
        trits[count][k] = level[c] < 0 ? static_cast<int8_t>(-candidates<K>()[c][k]) : candidates<K>()[c][k];
      ++count;
    }
  }

  // Where in the sorted magnitudes those begin that are nearest to each level: begins[count] is `size`.
  void begins(const double* sorted, int64_t size, int64_t (&begins)[kCandidates<K> + 1]) const {
    begins[0] = 0;
    for (int i = 1; i < count; ++i) {
      const double low = magnitude[i - 1], high = magnitude[i];
      const bool lower_wins_ties = order_[i - 1] < order_[i];
      const auto is_low = [&](double m) {
        const double to_low = m - low, to_high = high - m;
        return (m <= low) | ((m < high) & (lower_wins_ties ? to_low <= to_high : to_low < to_high));
      };
      int64_t begin = 0;
      for (int64_t rest = size; rest > 0;) {  // halving without a branch
        const int64_t half = (rest + 1) / 2;
        begin += is_low(sorted[begin + half - 1]) ? half : 0;
        rest -= half;
      }
      begins[i] = std::max(begin, begins[i - 1]);
    }
    begins[count] = size;
  }

 private:
  int order_[kCandidates<K>];
};

}  // namespace hardy
