// Gaussians projected to the image of one camera, the colors of spherical harmonics, and the way back.
// The formulas are told in src/hardy/ops/projection.py and spherical_harmonics.py.
#pragma once

#include <cstdint>

namespace hardy {

struct Camera {
  const float* view;        // (4, 4), world to camera
  const float* intrinsics;  // (3, 3)
  int width, height;
  float nearest, farthest, blur, smallest_radius;
};

struct Gaussians {
  int64_t count;
  const float* means;      // (count, 3)
  const float* quats;      // (count, 4), w first, of any length
  const float* scales;     // (count, 3)
  const float* opacities;  // (count,)
};

struct Projected {
  float* means;          // (count, 2)
  float* depths;         // (count,)
  float* conics;         // (count, 3)
  float* compensations;  // (count,)
  int32_t* radii;        // (count, 2), zero for what is not seen
};

struct ProjectedGradients {
  const float *means, *depths, *conics, *compensations;
};

struct GaussianGradients {
  float *means, *quats, *scales;  // as in Gaussians
  float* view;                    // (4, 4)
  float* intrinsics;              // (3, 3)
};

// `compensated`: opacities count times the compensation.
void project(const Gaussians& gaussians, const Camera& camera, bool compensated, const Projected& out, int threads);
void project_backward(const Gaussians& gaussians, const Camera& camera, const int32_t* radii,
                      const ProjectedGradients& in, const GaussianGradients& out, int threads);

// colors (count, 3) = max(0, 0.5 + sum of coefficients (count, bases, 3) times the bases up to `degree`), seen from
// `eye` (3,); zero where radii are.
void harmonics(int64_t count, int bases, int degree, const float* means, const float* eye, const float* coefficients,
               const int32_t* radii, float* colors, int threads);
void harmonics_backward(int64_t count, int bases, int degree, const float* means, const float* eye,
                        const float* coefficients, const int32_t* radii, const float* colors, const float* gradient,
                        float* means_gradient, float* eye_gradient, float* coefficients_gradient, int threads);

}  // namespace hardy
