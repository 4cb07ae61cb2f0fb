// hardy._kernels: what Python sees of the compiled kernels. Tensors come as addresses, checked on the Python side.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "huge_pages.h"
#include "projection.h"
#include "splat.h"
#include "trit_product.h"

namespace nb = nanobind;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void bind_trit_product(nb::module_& module) {
  module.def("trit_product_paths", &hardy::trit_product_paths);
  module.def(
      "trit_product",
      [](const std::string& path, uintptr_t x, int64_t tokens, uintptr_t codes, uintptr_t scales, int64_t rows,
         int64_t width, int64_t group_size, int planes, uintptr_t output, int threads) {
        const hardy::TritMatrix matrix{at<const uint8_t>(codes), at<const uint16_t>(scales), rows, width, group_size,
                                       planes};
        hardy::trit_product(path, matrix, at<const float>(x), tokens, at<float>(output), threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}

hardy::Gaussians gaussians_at(int64_t count, uintptr_t means, uintptr_t quats, uintptr_t scales, uintptr_t opacities) {
  return {count, at<const float>(means), at<const float>(quats), at<const float>(scales), at<const float>(opacities)};
}

hardy::Camera camera_at(uintptr_t view, uintptr_t intrinsics, int width, int height, float nearest, float farthest,
                        float blur, float smallest_radius) {
  return {at<const float>(view), at<const float>(intrinsics), width, height, nearest, farthest, blur, smallest_radius};
}

// What a call to bin_splats returns; Python only keeps it.
struct BinsHandle {
  std::shared_ptr<const hardy::Bins> bins;
};

void bind_splats(nb::module_& module) {
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  module.def(
      "project",
      [](int64_t count, uintptr_t means, uintptr_t quats, uintptr_t scales, uintptr_t opacities, uintptr_t view,
         uintptr_t intrinsics, int width, int height, float nearest, float farthest, float blur, float smallest_radius,
         bool compensated, uintptr_t means2d, uintptr_t depths, uintptr_t conics, uintptr_t compensations,
         uintptr_t radii, int threads) {
        hardy::project(gaussians_at(count, means, quats, scales, opacities),
                       camera_at(view, intrinsics, width, height, nearest, farthest, blur, smallest_radius), compensated,
                       {at<float>(means2d), at<float>(depths), at<float>(conics), at<float>(compensations),
                        at<int32_t>(radii)},
                       threads);
      },
      released);
  module.def(
      "project_backward",
      [](int64_t count, uintptr_t means, uintptr_t quats, uintptr_t scales, uintptr_t opacities, uintptr_t view,
         uintptr_t intrinsics, int width, int height, float nearest, float farthest, float blur, float smallest_radius,
         uintptr_t radii, uintptr_t by_means2d, uintptr_t by_depths, uintptr_t by_conics, uintptr_t by_compensations,
         uintptr_t means_gradient, uintptr_t quats_gradient, uintptr_t scales_gradient, uintptr_t view_gradient,
         uintptr_t intrinsics_gradient, int threads) {
        hardy::project_backward(
            gaussians_at(count, means, quats, scales, opacities),
            camera_at(view, intrinsics, width, height, nearest, farthest, blur, smallest_radius),
            at<const int32_t>(radii),
            {at<const float>(by_means2d), at<const float>(by_depths), at<const float>(by_conics),
             at<const float>(by_compensations)},
            {at<float>(means_gradient), at<float>(quats_gradient), at<float>(scales_gradient), at<float>(view_gradient),
             at<float>(intrinsics_gradient)},
            threads);
      },
      released);
  module.def(
      "harmonics",
      [](int64_t count, int bases, int degree, uintptr_t means, uintptr_t eye, uintptr_t coefficients, uintptr_t radii,
         uintptr_t colors, int threads) {
        hardy::harmonics(count, bases, degree, at<const float>(means), at<const float>(eye),
                         at<const float>(coefficients), at<const int32_t>(radii), at<float>(colors), threads);
      },
      released);
  module.def(
      "harmonics_backward",
      [](int64_t count, int bases, int degree, uintptr_t means, uintptr_t eye, uintptr_t coefficients, uintptr_t radii,
         uintptr_t colors, uintptr_t gradient, uintptr_t means_gradient, uintptr_t eye_gradient,
         uintptr_t coefficients_gradient, int threads) {
        hardy::harmonics_backward(count, bases, degree, at<const float>(means), at<const float>(eye),
                                  at<const float>(coefficients), at<const int32_t>(radii), at<const float>(colors),
                                  at<const float>(gradient), at<float>(means_gradient), at<float>(eye_gradient),
                                  at<float>(coefficients_gradient), threads);
      },
      released);
  nb::class_<BinsHandle>(module, "SplatBins").def_prop_ro("entries", [](const BinsHandle& handle) {
    return hardy::entries_of(*handle.bins);
  });
  module.def(
      "bin_splats",
      [](int64_t count, int width, int height, int channels, uintptr_t means, uintptr_t conics, uintptr_t opacities,
         uintptr_t colors, uintptr_t depths, uintptr_t radii, int threads) {
        return BinsHandle{hardy::bin_splats({count, width, height, channels, at<const float>(means),
                                             at<const float>(conics), at<const float>(opacities),
                                             at<const float>(colors), at<const float>(depths),
                                             at<const int32_t>(radii)},
                                            threads)};
      },
      released);
  module.def(
      "composite",
      [](const std::string& path, const BinsHandle& handle, uintptr_t background, uintptr_t image, uintptr_t alphas,
         uintptr_t weights, uintptr_t counts, int threads) {
        return hardy::composite(path, *handle.bins, at<const float>(background), at<float>(image), at<float>(alphas),
                                at<float>(weights), at<int32_t>(counts), threads);
      },
      released);
  module.def(
      "composite_backward",
      [](const std::string& path, const BinsHandle& handle, uintptr_t image, uintptr_t alphas, uintptr_t image_gradient,
         uintptr_t alphas_gradient, uintptr_t means, uintptr_t absolute, uintptr_t conics, uintptr_t opacities,
         uintptr_t colors, int threads) {
        hardy::composite_backward(path, *handle.bins, at<const float>(image), at<const float>(alphas),
                                  at<const float>(image_gradient), at<const float>(alphas_gradient), at<float>(means),
                                  at<float>(absolute), at<float>(conics), at<float>(opacities), at<float>(colors),
                                  threads);
      },
      released);
}

}  // namespace

NB_MODULE(_kernels, module) {
  bind_trit_product(module);
  bind_splats(module);
  module.def("advise_huge_pages", [](uintptr_t address, size_t bytes) { hardy::advise_huge_pages(address, bytes); });
}
