// For each wanted patch of an image a similar one among its whole patches, found by random search that neighbours share.
//
// src/hardy/ops/patchmatch.py has the source and the torch reference, which gives the same field to the last bit.
#pragma once

#include <cstdint>

namespace hardy {

struct PatchProblem {
  int64_t height, width, channels;
  const float* image;       // (height, width, channels)
  const uint8_t* usable;    // (height, width), centres of patches that may be taken
  const int64_t* targets;   // (count,), centres that a patch is sought for, as y * width + x
  const int32_t* place;     // (height, width), the number of a target, -1 elsewhere
  int64_t count;
  int radius, rounds;
  uint32_t seed;
};

// field: (count,), on entry a usable centre for each target, on return a better one; distances: (count,).
void nearest_patches(const PatchProblem& problem, int64_t* field, float* distances, int threads);

}  // namespace hardy
