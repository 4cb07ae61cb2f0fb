// hardy._kernels: what Python sees of the compiled kernels. Tensors come as addresses, checked on the Python side.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "huge_pages.h"
#include "projection.h"
#include "splat.h"
#include "tensor.h"
#include "trit_product.h"

#include <optional>

namespace nb = nanobind;
using namespace nb::literals;
using hardy::expect;
using hardy::Tensor;

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

// What bin_splats returns and Python only keeps. A capsule, not a class of nanobind: torch may hold it in a graph until
// after the interpreter's end, of which nanobind would complain.
constexpr const char* kBins = "hardy.Bins";

nb::capsule capsule_of(std::shared_ptr<const hardy::Bins> bins) {
  auto* kept = new std::shared_ptr<const hardy::Bins>(std::move(bins));
  return nb::capsule(kept, kBins,
                     [](void* bins) noexcept { delete static_cast<std::shared_ptr<const hardy::Bins>*>(bins); });
}

std::shared_ptr<const hardy::Bins> bins_in(const nb::capsule& capsule) {
  void* kept = PyCapsule_GetPointer(capsule.ptr(), kBins);
  if (!kept) throw nb::python_error();
  return *static_cast<std::shared_ptr<const hardy::Bins>*>(kept);
}

// The Gaussians and bases of the coefficients (count, bases, 3), and whether the rest fits them.
std::pair<int64_t, int> check_harmonics(int degree, const Tensor<const float>& means, const Tensor<const float>& eye,
                                        const Tensor<const float>& coefficients, const Tensor<const int32_t>& radii) {
  expect("coefficients", coefficients, {-1, -1, 3});
  const int64_t count = coefficients.shape[0], bases = coefficients.shape[1];
  if (degree < 0 || degree > 3 || bases < (degree + 1) * (degree + 1))
    throw nb::value_error("degree must be 0 to 3, with (degree + 1)^2 coefficients or more");
  expect("means", means, {count, 3});
  expect("eye", eye, {3});
  expect("radii", radii, {count, 2});
  return {count, static_cast<int>(bases)};
}

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
      [](int degree, const Tensor<const float>& means, const Tensor<const float>& eye,
         const Tensor<const float>& coefficients, const Tensor<const int32_t>& radii, const Tensor<float>& colors,
         int threads) {
        const auto [count, bases] = check_harmonics(degree, means, eye, coefficients, radii);
        hardy::harmonics(count, bases, degree, means.data, eye.data, coefficients.data, radii.data,
                         expect("colors", colors, {count, 3}), threads);
      },
      released);
  module.def(
      "harmonics_backward",
      [](int degree, const Tensor<const float>& means, const Tensor<const float>& eye,
         const Tensor<const float>& coefficients, const Tensor<const int32_t>& radii, const Tensor<const float>& colors,
         const Tensor<const float>& gradient, const Tensor<float>& means_gradient, const Tensor<float>& eye_gradient,
         const Tensor<float>& coefficients_gradient, int threads) {
        const auto [count, bases] = check_harmonics(degree, means, eye, coefficients, radii);
        hardy::harmonics_backward(count, bases, degree, means.data, eye.data, coefficients.data, radii.data,
                                  expect("colors", colors, {count, 3}), expect("gradient", gradient, {count, 3}),
                                  expect("means_gradient", means_gradient, {count, 3}),
                                  expect("eye_gradient", eye_gradient, {3}),
                                  expect("coefficients_gradient", coefficients_gradient, {count, bases, 3}), threads);
      },
      released);
  module.def("bin_splats", [](int width, int height, const Tensor<const float>& means,
                              const Tensor<const float>& conics, const Tensor<const float>& opacities,
                              const Tensor<const float>& colors, const Tensor<const float>& depths,
                              const Tensor<const int32_t>& radii, int threads) {
    expect("means", means, {-1, 2});
    expect("colors", colors, {means.shape[0], -1});
    const int64_t count = means.shape[0];
    const hardy::View view{count, width, height, static_cast<int>(colors.shape[1]), means.data,
                           expect("conics", conics, {count, 3}), expect("opacities", opacities, {count}), colors.data,
                           expect("depths", depths, {count}), expect("radii", radii, {count, 2})};
    std::shared_ptr<const hardy::Bins> bins;
    {
      nb::gil_scoped_release release;
      bins = hardy::bin_splats(view, threads);
    }
    return capsule_of(std::move(bins));
  });
  module.def(
      "composite",
      [](const std::string& path, const nb::capsule& capsule, const std::optional<Tensor<const float>>& background,
         const Tensor<float>& image, const Tensor<float>& alphas, const Tensor<float>& weights,
         const Tensor<int32_t>& counts, int threads) {
        const std::shared_ptr<const hardy::Bins> bins = bins_in(capsule);
        const hardy::BinsShape shape = hardy::shape_of(*bins);
        const float* behind = background ? expect("background", *background, {shape.channels}) : nullptr;
        expect("image", image, {shape.height, shape.width, shape.channels});
        expect("alphas", alphas, {shape.height, shape.width});
        expect("weights", weights, {shape.gaussians});
        expect("counts", counts, {shape.gaussians});
        nb::gil_scoped_release release;
        return hardy::composite(path, *bins, behind, image.data, alphas.data, weights.data, counts.data, threads);
      },
      "path"_a, "bins"_a, "background"_a.none(), "image"_a, "alphas"_a, "weights"_a, "counts"_a, "threads"_a);
  module.def("composite_backward", [](const std::string& path, const nb::capsule& capsule,
                                      const Tensor<const float>& image, const Tensor<const float>& alphas,
                                      const Tensor<const float>& image_gradient,
                                      const Tensor<const float>& alphas_gradient, const Tensor<float>& means,
                                      const Tensor<float>& absolute, const Tensor<float>& conics,
                                      const Tensor<float>& opacities, const Tensor<float>& colors, int threads) {
    const std::shared_ptr<const hardy::Bins> bins = bins_in(capsule);
    const hardy::BinsShape shape = hardy::shape_of(*bins);
    for (const auto& [name, tensor] : {std::pair{"image", &image}, std::pair{"image_gradient", &image_gradient}})
      expect(name, *tensor, {shape.height, shape.width, shape.channels});
    for (const auto& [name, tensor] : {std::pair{"alphas", &alphas}, std::pair{"alphas_gradient", &alphas_gradient}})
      expect(name, *tensor, {shape.height, shape.width});
    expect("means", means, {shape.gaussians, 2});
    expect("absolute", absolute, {shape.gaussians, 2});
    expect("conics", conics, {shape.gaussians, 3});
    expect("opacities", opacities, {shape.gaussians});
    expect("colors", colors, {shape.gaussians, shape.channels});
    nb::gil_scoped_release release;
    hardy::composite_backward(path, *bins, image.data, alphas.data, image_gradient.data, alphas_gradient.data,
                              means.data, absolute.data, conics.data, opacities.data, colors.data, threads);
  });
}

}  // namespace

NB_MODULE(_kernels, module) {
  bind_trit_product(module);
  bind_splats(module);
  module.def("advise_huge_pages", [](uintptr_t address, size_t bytes) { hardy::advise_huge_pages(address, bytes); });
}
