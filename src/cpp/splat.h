// Compositing of Gaussians that were projected to the image, and the way back, on the CPU.
//
// What is computed is told in src/hardy/ops/compositing.py. The image is cut into tiles of 16 x 16 pixels; a tile has
// the list of the Gaussians whose box touches it, nearest first. Rows of 16 pixels are worked on at once, with the same
// operations in the same order whatever the instruction set and the number of threads, so the results are the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "splat_path.h"

namespace hardy {

// The projected Gaussians of one camera.
struct View {
  int64_t gaussians;
  int width, height, channels;
  const float* means;       // (gaussians, 2)
  const float* conics;      // (gaussians, 3)
  const float* opacities;   // (gaussians,)
  const float* colors;      // (gaussians, channels)
  const float* depths;      // (gaussians,)
  const int32_t* radii;     // (gaussians, 2), zero for what is not seen
};

class Bins;

// Sorted by depth and dealt to tiles. `path` is a name of trit_product_paths().
std::shared_ptr<const Bins> bin_splats(const View& view, int threads);

struct BinsShape {
  int64_t gaussians;
  int width, height, channels;
};
BinsShape shape_of(const Bins& bins);

// Returns the pairs of pixel and Gaussian that were looked at: 256 for each entry that a tile went through.
int64_t composite(const std::string& path, const Bins& bins, const float* background, float* image, float* alphas,
                  float* weights, int32_t* counts, int threads);

// Gradients, each written for every Gaussian: means (gaussians, 2), their absolute sums (gaussians, 2), conics
// (gaussians, 3), opacities (gaussians,), colors (gaussians, channels).
void composite_backward(const std::string& path, const Bins& bins, const float* image, const float* alphas,
                        const float* image_gradient, const float* alphas_gradient, float* means, float* absolute,
                        float* conics, float* opacities, float* colors, int threads);

}  // namespace hardy
