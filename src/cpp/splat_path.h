// What the tile loops of every instruction set share with the rest of compositing: plain data, no code.
#pragma once

#include <cstdint>

namespace hardy {

constexpr int kTile = 16;
constexpr int kMostChannels = 32;
constexpr int kGeometry = 8;  // gradients of x, y, a, b, c, opacity, and the absolute ones of x and y

// A Gaussian in the image: centre, inverse covariance, opacity, and where it can reach alpha = 1/255.
struct Splat {
  float x, y, a, b, c, opacity;
  float reach;                     // half the squared Mahalanobis distance there, slightly more
  int32_t gaussian;                // its number before sorting
  int32_t top, bottom;             // rows of pixels, half-open
  int32_t left, upper, right, lower;  // tiles, half-open
  int64_t first;                   // of its entries, one per tile
};

// What a tile's loops read.
struct Tiles {
  const Splat* splats;    // nearest first
  const float* colors;    // (splats, channels)
  const int64_t* begin;   // (tiles + 1,) into entries
  const int32_t* entries;  // numbers of splats
  int across, down, width, height, channels;
};

// What they write: per pixel, and per entry.
struct Rendered {
  float* image;           // (height, width, channels), over `background`
  float* alphas;          // (height, width)
  const float* background;  // (channels,) or null
  float* weights;         // (entries,): sums of alpha times transmittance
  int32_t* counts;        // (entries,): pixels that it contributed to
};

struct Gradients {
  const float* image;         // (height, width, channels): what was rendered
  const float* alphas;        // (height, width)
  const float* image_gradient;
  const float* alphas_gradient;
  float* entries;             // (entries, kGeometry + channels)
};

// One instruction set's loops over one tile. `forward` returns how many entries it went through before every pixel was
// opaque.
struct SplatPath {
  const char* name;
  int64_t (*forward)(const Tiles&, int64_t tile, const Rendered&);
  void (*backward)(const Tiles&, int64_t tile, const Gradients&);
};

extern const SplatPath kSplatBase, kSplatAvx2, kSplatAvx512;

}  // namespace hardy
