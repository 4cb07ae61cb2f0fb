#include "trits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "threads.h"
#include "trit_levels.h"

namespace hardy {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kSmallestScale = 0x1p-24f;  // of float16
constexpr int64_t kGroupsAtOnce = 32;       // of a thread's share

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Word = uint32_t;
};
template <>
struct Bits<double> {
  using Word = uint64_t;
};

// Magnitudes in ascending order, byte by byte of their patterns, whose order is that of the numbers. No branch depends
// on the numbers, which makes it several times faster on a group than std::sort.
template <class T>
class Sorter {
  using Word = typename Bits<T>::Word;
  static constexpr int kBytes = sizeof(Word);

 public:
  void operator()(const T* values, int64_t size, double* sorted) {
    words_.resize(size);
    other_.resize(size);
    int64_t counts[kBytes][256] = {};
    for (int64_t i = 0; i < size; ++i) {
      Word word;
      std::memcpy(&word, values + i, sizeof word);
      word &= ~Word{0} >> 1;  // without its sign
      words_[i] = word;
      for (int byte = 0; byte < kBytes; ++byte) ++counts[byte][word >> (8 * byte) & 255];
    }
    for (int byte = 0; byte < kBytes; ++byte) {
      int64_t begin = 0;
      for (int64_t& count : counts[byte]) begin += std::exchange(count, begin);
      for (const Word word : words_) other_[counts[byte][word >> (8 * byte) & 255]++] = word;
      words_.swap(other_);
    }
    for (int64_t i = 0; i < size; ++i) {
      T value;
      std::memcpy(&value, &words_[i], sizeof value);
      sorted[i] = value;
    }
  }

 private:
  std::vector<Word> words_, other_;
};

// As float16 keeps a scale that is not negative: a positive one is never lost to zero.
float stored_scale(double exact) {
  float scale = static_cast<float>(exact);
  if (!(scale > 0.0f)) return 0.0f;
  if (scale >= 65520.0f) return std::numeric_limits<float>::infinity();
  if (scale < 0x1p-14f) return std::max(std::nearbyint(scale * 0x1p24f) * 0x1p-24f, kSmallestScale);
  uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~uint32_t{0x1fff};  // to ten bits behind the first, halves to even
  std::memcpy(&scale, &bits, 4);
  return scale;
}

// The groups of one share of the work, one after the other. All but the last step works on the group's magnitudes in
// ascending order: then the weights that take a level stand side by side, their number and their sum say all that the
// regression asks for, and no trit is written down before the last step.
template <int K, class T>
class Solver {
 public:
  Solver(const TritProblem& problem, const TritSolution& solution)
      : problem_(problem),
        solution_(solution),
        size_(problem.group_size),
        sorted_(size_),
        sums_(size_ + 1),
        rest_(size_),
        keys_(size_),
        merged_keys_(size_),
        order_(size_),
        merged_(size_),
        planes_(K * size_),
        choice_(size_) {}

  void solve(const T* weights, int64_t group) {
    sort_(weights, size_, sorted_.data());
    for (int64_t i = 0; i < size_; ++i) sums_[i + 1] = sums_[i] + sorted_[i];
    const double tolerance = problem_.tolerance * (sums_[size_] / problem_.lengths[group]);
    Fit best;
    for (int64_t s = 0; s < problem_.start_count; ++s) {
      double exact[K];
      const bool sign = problem_.starts[s] == Start::kSign;
      const bool converged = alternate(sign ? sign_start() : magnitude_start(), tolerance, exact);
      const Fit found(*this, exact, converged);
      if (s == 0 || found.error < best.error) best = found;
    }
    write(best, weights, group);
  }

 private:
  using Begins = int64_t[kCandidates<K> + 1];

  // Scales as float16, positive, and the levels that they make.
  struct Fit {
    float stored[K];
    Levels<K> levels;
    Begins begins;
    double error;
    bool converged;

    Fit() = default;
    Fit(const Solver& solver, const double (&exact)[K], bool converged) : converged(converged) {
      double scales[K];
      bool overflow = false;
      for (int k = 0; k < K; ++k) {
        stored[k] = stored_scale(std::abs(exact[k]));
        overflow |= std::isinf(stored[k]);
        scales[k] = std::isinf(stored[k]) ? 0.0 : stored[k];
      }
      levels = Levels<K>(scales);
      levels.begins(solver.sorted_.data(), solver.size_, begins);
      error = overflow ? kInfinity : 0.0;  // it loses to any start without
      for (int l = 0; l < levels.count; ++l)
        for (int64_t i = begins[l]; i < begins[l + 1]; ++i) {
          const double off = levels.magnitude[l] - solver.sorted_[i];
          error += off * off;
        }
    }
  };

  // Every plane the sign of the weight.
  Moments<K> sign_start() const {
    Trits<K> ones;
    ones.fill(1);
    const auto zeros = std::upper_bound(sorted_.begin(), sorted_.end(), 0.0) - sorted_.begin();
    Moments<K> moments;
    moments.add(ones, static_cast<double>(size_ - zeros), sums_[size_]);
    return moments;
  }

  // Each plane the best single plane for what the planes before it left over.
  Moments<K> magnitude_start() {
    for (int64_t i = 0; i < size_; ++i) {
      rest_[i] = keys_[i] = sorted_[i];
      order_[i] = static_cast<int32_t>(i);
    }
    for (int k = 0; k < K; ++k) {
      // `keys_` are the magnitudes of what is left, ascending, and `order_` whose they are. A plane of m trits takes the
      // m largest and gains (sum of them)^2 / m.
      double sum = 0, most = -1;
      int64_t first = size_;
      for (int64_t m = 1; m <= size_; ++m) {
        sum += keys_[size_ - m];
        const double gain = sum * sum / static_cast<double>(m);
        if (gain > most) {
          most = gain;
          first = size_ - m;
        }
      }
      while (first > 0 && first < size_ && keys_[first - 1] == keys_[first]) --first;
      while (first < size_ && keys_[first] == 0) ++first;
      double moment = 0;
      for (int64_t i = first; i < size_; ++i) moment += keys_[i];
      const double scale = moment / static_cast<double>(std::max<int64_t>(size_ - first, 1));
      int8_t* plane = planes_.data() + k * size_;
      std::fill(plane, plane + size_, int8_t{0});
      for (int64_t i = first; i < size_; ++i) plane[order_[i]] = rest_[order_[i]] < 0 ? -1 : 1;
      if (k + 1 < K) take_away(plane, scale, first);
    }
    Moments<K> moments;
    for (int i = 0; i < K; ++i) {
      const int8_t* plane = planes_.data() + i * size_;
      for (int64_t n = 0; n < size_; ++n) moments.weights[i] += plane[n] * sorted_[n];
      for (int j = 0; j <= i; ++j) {
        const int8_t* other = planes_.data() + j * size_;
        int64_t common = 0;
        for (int64_t n = 0; n < size_; ++n) common += plane[n] * other[n];
        moments.gram[i][j] = moments.gram[j][i] = static_cast<double>(common);
      }
    }
    return moments;
  }

  // What is left without the plane of those from `first` on, in order again: three runs that are in order are merged,
  // those that the plane left alone, those that it took too much from (from their end), and those that it did not.
  void take_away(const int8_t* plane, double scale, int64_t first) {
    for (int64_t i = 0; i < size_; ++i) rest_[i] -= scale * plane[i];
    const int64_t turn = std::lower_bound(keys_.begin() + first, keys_.end(), scale) - keys_.begin();
    std::reverse(order_.begin() + first, order_.begin() + turn);
    for (int64_t i = 0; i < size_; ++i) keys_[i] = std::abs(rest_[order_[i]]);
    merge(first, turn, size_);
    merge(0, first, size_);
  }

  // The runs [begin, middle) and [middle, end) of `keys_` and `order_` as one.
  void merge(int64_t begin, int64_t middle, int64_t end) {
    int64_t a = begin, b = middle;
    for (int64_t to = begin; to < end; ++to) {
      const bool second = a == middle || (b < end && keys_[b] < keys_[a]);
      const int64_t from = second ? b : a;
      merged_keys_[to] = keys_[from];
      merged_[to] = order_[from];
      b += second;
      a += !second;
    }
    std::copy(merged_keys_.begin() + begin, merged_keys_.begin() + end, keys_.begin() + begin);
    std::copy(merged_.begin() + begin, merged_.begin() + end, order_.begin() + begin);
  }

  // Scales after at most `iterations` of ridge and search, and whether they came to rest.
  bool alternate(Moments<K> moments, double tolerance, double (&scales)[K]) const {
    double ridge = kRidge;
    std::fill(scales, scales + K, kInfinity);
    for (int64_t iteration = 0; iteration < problem_.iterations; ++iteration) {
      double next[K], moved = 0;
      ridge_scales(moments, ridge, next);
      for (int k = 0; k < K; ++k) {
        moved += (next[k] - scales[k]) * (next[k] - scales[k]);
        scales[k] = next[k];
      }
      if (!(std::sqrt(moved) > tolerance)) return true;
      const Levels<K> levels(scales);
      Begins begins;
      levels.begins(sorted_.data(), size_, begins);
      moments = Moments<K>();
      for (int l = 0; l < levels.count; ++l)
        moments.add(levels.trits[l], static_cast<double>(begins[l + 1] - begins[l]),
                    sums_[begins[l + 1]] - sums_[begins[l]]);
    }
    return false;
  }

  void write(const Fit& fit, const T* weights, int64_t group) {
    std::fill(choice_.begin(), choice_.end(), 0);
    for (int l = 1; l < fit.levels.count && fit.begins[l] < size_; ++l) {
      const T from = static_cast<T>(sorted_[fit.begins[l]]);
      for (int64_t i = 0; i < size_; ++i) choice_[i] += std::abs(weights[i]) >= from;
    }
    for (int k = 0; k < K; ++k) {
      int8_t* out = solution_.trits + (k * solution_.stride + group) * size_;
      bool used = false;
      for (int64_t i = 0; i < size_; ++i) {
        const int8_t trit = fit.levels.trits[choice_[i]][k];
        out[i] = static_cast<int8_t>(weights[i] < 0 ? -trit : trit);
        used |= trit != 0;
      }
      solution_.scales[k * solution_.stride + group] = used || std::isinf(fit.stored[k]) ? fit.stored[k] : 0.0f;
    }
    solution_.converged[group] = fit.converged;
  }

  const TritProblem& problem_;
  const TritSolution& solution_;
  const int64_t size_;
  Sorter<T> sort_;
  std::vector<double> sorted_;  // magnitudes, ascending
  std::vector<double> sums_;    // of those before each
  std::vector<double> rest_, keys_, merged_keys_;
  std::vector<int32_t> order_, merged_;
  std::vector<int8_t> planes_;
  std::vector<int32_t> choice_;
};

template <int K, class T>
void fit(const T* weights, const TritProblem& problem, const TritSolution& solution, int threads) {
  parallel_for(problem.groups, kGroupsAtOnce, threads, [&](int64_t begin, int64_t end) {
    Solver<K, T> solver(problem, solution);
    for (int64_t group = begin; group < end; ++group) solver.solve(weights + group * problem.group_size, group);
  });
}

template <class T>
void fit_planes(const T* weights, const TritProblem& problem, const TritSolution& solution, int threads) {
  if (problem.planes == 1) return fit<1>(weights, problem, solution, threads);
  if (problem.planes == 2) return fit<2>(weights, problem, solution, threads);
  return fit<3>(weights, problem, solution, threads);
}

}  // namespace

void fit_trits(const float* weights, const TritProblem& problem, const TritSolution& solution, int threads) {
  fit_planes(weights, problem, solution, threads);
}

void fit_trits(const double* weights, const TritProblem& problem, const TritSolution& solution, int threads) {
  fit_planes(weights, problem, solution, threads);
}

}  // namespace hardy
