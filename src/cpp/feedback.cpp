#include "feedback.h"

#include "threads.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hardy {
namespace {

// Outputs that are rounded side by side: their weights of one group stay in the cache.
constexpr int kLanes = 32;
constexpr int kMostLevels = 14;  // that 3 planes have

// Rounds the outputs begin..begin + count. `round(i, weights, rounded)` rounds kLanes weights of input i.
template <class Round>
void round_lanes(const FeedbackGroup& group, int64_t begin, int64_t count, std::vector<float>& weights, Round round) {
  const int64_t inputs = group.inputs;
  for (int64_t i = 0; i < inputs; ++i) {
    const float* from = group.columns + i * group.outputs + begin;
    float* to = weights.data() + i * kLanes;
    std::copy(from, from + count, to);
    std::fill(to + count, to + kLanes, 0.0f);
  }
  float rounded[kLanes], errors[kLanes];
  for (int64_t i = 0; i < inputs; ++i) {
    const float* now = weights.data() + i * kLanes;
    const float* row = group.factor + i * inputs;
    round(i, now, rounded);
    for (int lane = 0; lane < kLanes; ++lane) errors[lane] = (now[lane] - rounded[lane]) / row[i];
    std::copy(errors, errors + count, group.errors + i * group.outputs + begin);
    for (int64_t later = i + 1; later < inputs; ++later) {
      float* other = weights.data() + later * kLanes;
      const float share = row[later];
      for (int lane = 0; lane < kLanes; ++lane) other[lane] -= share * errors[lane];
    }
  }
}

template <class Work>
void for_lanes(const FeedbackGroup& group, int threads, Work work) {
  parallel_for((group.outputs + kLanes - 1) / kLanes, 1, threads, [&](int64_t first, int64_t last) {
    std::vector<float> weights(group.inputs * kLanes);
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tile * kLanes;
      work(begin, std::min<int64_t>(kLanes, group.outputs - begin), weights);
    }
  });
}

template <int K>
void round_to_planes(const FeedbackGroup& group, const TritLevels& levels, int8_t* found, int threads) {
  for_lanes(group, threads, [&](int64_t begin, int64_t count, std::vector<float>& weights) {
    float magnitudes[kMostLevels][kLanes] = {}, between[kMostLevels][kLanes] = {};
    float trits[K][kMostLevels][kLanes] = {};
    for (int level = 0; level < levels.count; ++level)
      for (int64_t lane = 0; lane < count; ++lane) {
        magnitudes[level][lane] = levels.magnitudes[level * group.outputs + begin + lane];
        for (int plane = 0; plane < K; ++plane)
          trits[plane][level][lane] = levels.trits[(plane * levels.count + level) * group.outputs + begin + lane];
      }
    for (int level = 0; level + 1 < levels.count; ++level)
      for (int lane = 0; lane < kLanes; ++lane)
        between[level][lane] = (magnitudes[level + 1][lane] + magnitudes[level][lane]) / 2;
    round_lanes(group, begin, count, weights, [&](int64_t i, const float* now, float* rounded) {
      float chosen[K][kLanes];
      for (int lane = 0; lane < kLanes; ++lane) rounded[lane] = magnitudes[0][lane];
      for (int plane = 0; plane < K; ++plane)
        for (int lane = 0; lane < kLanes; ++lane) chosen[plane][lane] = trits[plane][0][lane];
      for (int level = 0; level + 1 < levels.count; ++level)
        for (int lane = 0; lane < kLanes; ++lane) {
          const bool beyond = std::fabs(now[lane]) > between[level][lane];
          rounded[lane] = beyond ? magnitudes[level + 1][lane] : rounded[lane];
          for (int plane = 0; plane < K; ++plane)
            chosen[plane][lane] = beyond ? trits[plane][level + 1][lane] : chosen[plane][lane];
        }
      for (int lane = 0; lane < kLanes; ++lane) {
        const float sign = now[lane] > 0 ? 1.0f : now[lane] < 0 ? -1.0f : 0.0f;
        rounded[lane] *= sign;
        for (int plane = 0; plane < K; ++plane) chosen[plane][lane] *= sign;
      }
      for (int plane = 0; plane < K; ++plane)
        for (int64_t lane = 0; lane < count; ++lane)
          found[(plane * group.inputs + i) * group.outputs + begin + lane] = static_cast<int8_t>(chosen[plane][lane]);
    });
  });
}

}  // namespace

void round_to_trits(const FeedbackGroup& group, const TritLevels& levels, int8_t* found, int threads) {
  if (levels.planes == 1) return round_to_planes<1>(group, levels, found, threads);
  if (levels.planes == 2) return round_to_planes<2>(group, levels, found, threads);
  return round_to_planes<3>(group, levels, found, threads);
}

void round_to_grid(const FeedbackGroup& group, const Grid& grid, float* codes, int threads) {
  for_lanes(group, threads, [&](int64_t begin, int64_t count, std::vector<float>& weights) {
    float scale[kLanes] = {}, divisor[kLanes], zero_point[kLanes] = {};
    std::fill(divisor, divisor + kLanes, 1.0f);
    std::copy(grid.scale + begin, grid.scale + begin + count, scale);
    std::copy(grid.divisor + begin, grid.divisor + begin + count, divisor);
    std::copy(grid.zero_point + begin, grid.zero_point + begin + count, zero_point);
    round_lanes(group, begin, count, weights, [&](int64_t i, const float* now, float* rounded) {
      float code[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const float nearest = std::nearbyint(now[lane] / divisor[lane]) + zero_point[lane];
        code[lane] = std::min(std::max(nearest, grid.lowest), grid.highest);
        rounded[lane] = (code[lane] - zero_point[lane]) * scale[lane];
      }
      std::copy(code, code + count, codes + i * group.outputs + begin);
    });
  });
}

}  // namespace hardy
