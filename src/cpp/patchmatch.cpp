#include "patchmatch.h"

#include "threads.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace hardy {
namespace {

constexpr int64_t kGrain = 64;
constexpr int kSteps[] = {1, 4};

uint32_t mixed(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

uint32_t drawn(uint32_t seed, uint32_t round, uint32_t trial, uint32_t target) {
  return mixed(mixed(mixed(mixed(seed) ^ round) ^ trial) ^ target);
}

// The mean squared difference over the target's pixels that lie in the image; a source lies there whole. Given up as
// soon as the sum says that it will not be below `most`.
float distance(const PatchProblem& p, int64_t target, int64_t source, float most) {
  const int64_t ty = target / p.width, tx = target % p.width, sy = source / p.width, sx = source % p.width;
  const int64_t top = std::max<int64_t>(-p.radius, -ty), bottom = std::min<int64_t>(p.radius, p.height - 1 - ty);
  const int64_t left = std::max<int64_t>(-p.radius, -tx), right = std::min<int64_t>(p.radius, p.width - 1 - tx);
  const float pixels = static_cast<float>((bottom - top + 1) * (right - left + 1));
  float sum = 0;
  for (int64_t dy = top; dy <= bottom; ++dy) {
    const float* a = p.image + ((ty + dy) * p.width + tx + left) * p.channels;
    const float* b = p.image + ((sy + dy) * p.width + sx + left) * p.channels;
    for (int64_t i = 0; i < (right - left + 1) * p.channels; ++i) {
      const float off = a[i] - b[i];
      sum += off * off;
    }
    if (sum / pixels >= most) return std::numeric_limits<float>::infinity();
  }
  return sum / pixels;
}

}  // namespace

void nearest_patches(const PatchProblem& p, int64_t* field, float* distances, int threads) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<int64_t> found(p.count);
  std::vector<float> best(p.count);
  parallel_for(p.count, kGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) distances[i] = distance(p, p.targets[i], field[i], infinity);
  });
  for (int round = 0; round < p.rounds; ++round) {
    // All look at the field of the round before, so that neither order nor threads matter.
    parallel_for(p.count, kGrain, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t target = p.targets[i], ty = target / p.width, tx = target % p.width;
        found[i] = field[i];
        best[i] = distances[i];
        const auto tried = [&](int64_t y, int64_t x) {
          if (y < 0 || x < 0 || y >= p.height || x >= p.width || !p.usable[y * p.width + x]) return;
          const float off = distance(p, target, y * p.width + x, best[i]);
          if (off < best[i]) {
            best[i] = off;
            found[i] = y * p.width + x;
          }
        };
        for (const int step : kSteps)
          for (const auto& [dy, dx] : {std::pair{-step, 0}, {step, 0}, {0, -step}, {0, step}}) {
            const int64_t y = ty + dy, x = tx + dx;
            if (y < 0 || x < 0 || y >= p.height || x >= p.width) continue;
            const int32_t neighbour = p.place[y * p.width + x];
            if (neighbour >= 0) tried(field[neighbour] / p.width - dy, field[neighbour] % p.width - dx);
          }
        uint32_t trial = 0;
        for (int64_t reach = std::max(p.height, p.width); reach > 0; reach /= 2, ++trial) {
          const uint32_t side = static_cast<uint32_t>(2 * reach + 1), where = static_cast<uint32_t>(target);
          const uint32_t first = drawn(p.seed, round, 2 * trial, where);
          const uint32_t second = drawn(p.seed, round, 2 * trial + 1, where);
          tried(found[i] / p.width + first % side - reach, found[i] % p.width + second % side - reach);
        }
      }
    });
    std::copy(found.begin(), found.end(), field);
    std::copy(best.begin(), best.end(), distances);
  }
}

}  // namespace hardy
