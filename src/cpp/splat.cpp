#include "splat.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "threads.h"

namespace hardy {

class Bins {
 public:
  std::vector<Splat> splats;
  std::vector<float> colors;
  std::vector<int64_t> begin;
  std::vector<int32_t> entries;
  int64_t gaussians;
  int width, height, channels, across, down;

  Tiles tiles() const {
    return {splats.data(), colors.data(), begin.data(), entries.data(), across, down, width, height, channels};
  }
};

namespace {

const SplatPath& splat_path(const std::string& name) {
#if defined(__x86_64__) || defined(_M_X64)
  if (name == "avx512") return kSplatAvx512;
  if (name == "avx2") return kSplatAvx2;
#endif
  return kSplatBase;
}

// The seen Gaussians, nearest first; those equally far in their own order. Depths are positive, so their bits are in
// their order.
std::vector<int32_t> nearest_first(const View& view) {
  constexpr int kBits = 11, kBuckets = 1 << kBits;
  std::vector<int32_t> order, next;
  std::vector<uint32_t> keys, next_keys;
  for (int64_t i = 0; i < view.gaussians; ++i) {
    if (view.radii[2 * i] <= 0 || view.radii[2 * i + 1] <= 0) continue;
    uint32_t key;
    std::memcpy(&key, view.depths + i, 4);
    order.push_back(static_cast<int32_t>(i));
    keys.push_back(key);
  }
  next.resize(order.size());
  next_keys.resize(order.size());
  for (int shift = 0; shift < 32; shift += kBits) {
    int64_t places[kBuckets + 1] = {};
    for (uint32_t key : keys) ++places[((key >> shift) & (kBuckets - 1)) + 1];
    for (int b = 0; b < kBuckets; ++b) places[b + 1] += places[b];
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t place = places[(keys[i] >> shift) & (kBuckets - 1)]++;
      next[place] = order[i];
      next_keys[place] = keys[i];
    }
    order.swap(next);
    keys.swap(next_keys);
  }
  return order;
}

int clamp_to(float value, int low, int high) {
  return static_cast<int>(std::min(std::max(value, static_cast<float>(low)), static_cast<float>(high)));
}

// The box in which alpha can be 1/255; empty if there is none.
Splat splat_of(const View& view, int32_t i) {
  Splat g{};
  g.gaussian = i;
  g.x = view.means[2 * i];
  g.y = view.means[2 * i + 1];
  g.a = view.conics[3 * i];
  g.b = view.conics[3 * i + 1];
  g.c = view.conics[3 * i + 2];
  g.opacity = view.opacities[i];
  const float determinant = g.a * g.c - g.b * g.b;
  if (!(g.opacity >= 1.0f / 255.0f) || !(determinant > 0.0f)) return g;
  g.reach = std::log(255.0f * g.opacity) + 1e-3f;
  const float half_width = std::sqrt(2.0f * g.reach * g.c / determinant) + 0.01f;
  const float half_height = std::sqrt(2.0f * g.reach * g.a / determinant) + 0.01f;
  const int left = clamp_to(std::floor(g.x - half_width - 0.5f), 0, view.width);
  const int right = clamp_to(std::ceil(g.x + half_width + 0.5f), 0, view.width);
  g.top = clamp_to(std::floor(g.y - half_height - 0.5f), 0, view.height);
  g.bottom = clamp_to(std::ceil(g.y + half_height + 0.5f), 0, view.height);
  if (left >= right || g.top >= g.bottom) return g;
  g.left = left / kTile;
  g.right = (right + kTile - 1) / kTile;
  g.upper = g.top / kTile;
  g.lower = (g.bottom + kTile - 1) / kTile;
  return g;
}

}  // namespace

std::shared_ptr<const Bins> bin_splats(const View& view, int threads) {
  auto bins = std::make_shared<Bins>();
  bins->gaussians = view.gaussians;
  bins->width = view.width;
  bins->height = view.height;
  bins->channels = view.channels;
  bins->across = (view.width + kTile - 1) / kTile;
  bins->down = (view.height + kTile - 1) / kTile;
  const std::vector<int32_t> order = nearest_first(view);
  const int64_t count = static_cast<int64_t>(order.size());
  bins->splats.resize(count);
  bins->colors.resize(count * view.channels);
  parallel_for(count, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      bins->splats[r] = splat_of(view, order[r]);
      std::memcpy(&bins->colors[r * view.channels], view.colors + int64_t{order[r]} * view.channels,
                  sizeof(float) * view.channels);
    }
  });
  bins->begin.assign(static_cast<size_t>(bins->across) * bins->down + 1, 0);
  int64_t total = 0;
  for (Splat& g : bins->splats) {
    g.first = total;
    total += int64_t{g.right - g.left} * (g.lower - g.upper);
    for (int y = g.upper; y < g.lower; ++y)
      for (int x = g.left; x < g.right; ++x) ++bins->begin[int64_t{y} * bins->across + x + 1];
  }
  for (size_t t = 1; t < bins->begin.size(); ++t) bins->begin[t] += bins->begin[t - 1];
  bins->entries.resize(total);
  std::vector<int64_t> next(bins->begin.begin(), bins->begin.end() - 1);
  for (int64_t r = 0; r < count; ++r) {
    const Splat& g = bins->splats[r];
    for (int y = g.upper; y < g.lower; ++y)
      for (int x = g.left; x < g.right; ++x) bins->entries[next[int64_t{y} * bins->across + x]++] = int32_t(r);
  }
  return bins;
}

BinsShape shape_of(const Bins& bins) { return {bins.gaussians, bins.width, bins.height, bins.channels}; }

int64_t composite(const std::string& path, const Bins& bins, const float* background, float* image, float* alphas,
                  float* weights, int32_t* counts, int threads) {
  const SplatPath& loops = splat_path(path);
  const Tiles tiles = bins.tiles();
  const std::unique_ptr<float[]> entry_weights(new float[bins.entries.size()]);
  const std::unique_ptr<int32_t[]> entry_counts(new int32_t[bins.entries.size()]);
  const Rendered out{image, alphas, background, entry_weights.get(), entry_counts.get()};
  std::atomic<int64_t> looked_at{0};
  parallel_for(int64_t{bins.across} * bins.down, 1, threads, [&](int64_t begin, int64_t end) {
    int64_t passed = 0;
    for (int64_t tile = begin; tile < end; ++tile) passed += loops.forward(tiles, tile, out);
    looked_at.fetch_add(passed, std::memory_order_relaxed);
  });
  std::fill(weights, weights + bins.gaussians, 0.0f);
  std::fill(counts, counts + bins.gaussians, 0);
  parallel_for(static_cast<int64_t>(bins.splats.size()), 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Splat& g = bins.splats[r];
      const int64_t last = g.first + int64_t{g.right - g.left} * (g.lower - g.upper);
      for (int64_t e = g.first; e < last; ++e) {
        weights[g.gaussian] += entry_weights[e];
        counts[g.gaussian] += entry_counts[e];
      }
    }
  });
  return looked_at.load() * kTile * kTile;
}

void composite_backward(const std::string& path, const Bins& bins, const float* image, const float* alphas,
                        const float* image_gradient, const float* alphas_gradient, float* means, float* absolute,
                        float* conics, float* opacities, float* colors, int threads) {
  const SplatPath& loops = splat_path(path);
  const Tiles tiles = bins.tiles();
  const int channels = bins.channels, width = kGeometry + channels;
  const std::unique_ptr<float[]> entries(new float[bins.entries.size() * width]);
  const Gradients in{image, alphas, image_gradient, alphas_gradient, entries.get()};
  parallel_for(int64_t{bins.across} * bins.down, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) loops.backward(tiles, tile, in);
  });
  std::fill(means, means + 2 * bins.gaussians, 0.0f);
  std::fill(absolute, absolute + 2 * bins.gaussians, 0.0f);
  std::fill(conics, conics + 3 * bins.gaussians, 0.0f);
  std::fill(opacities, opacities + bins.gaussians, 0.0f);
  std::fill(colors, colors + channels * bins.gaussians, 0.0f);
  parallel_for(static_cast<int64_t>(bins.splats.size()), 1024, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Splat& g = bins.splats[r];
      const int64_t i = g.gaussian, last = g.first + int64_t{g.right - g.left} * (g.lower - g.upper);
      for (int64_t e = g.first; e < last; ++e) {
        const float* from = entries.get() + e * width;
        for (int k = 0; k < 2; ++k) means[2 * i + k] += from[k];
        for (int k = 0; k < 3; ++k) conics[3 * i + k] += from[2 + k];
        opacities[i] += from[5];
        for (int k = 0; k < 2; ++k) absolute[2 * i + k] += from[6 + k];
        for (int k = 0; k < channels; ++k) colors[channels * i + k] += from[kGeometry + k];
      }
    }
  });
}

}  // namespace hardy
