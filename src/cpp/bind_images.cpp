// Gaussians, and patches of images.
#include "bindings.h"
#include "patchmatch.h"
#include "projection.h"
#include "splat.h"

namespace {

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

hardy::Gaussians gaussians_of(const Tensor<const float>& means, const Tensor<const float>& quats,
                              const Tensor<const float>& scales, const Tensor<const float>& opacities) {
  expect("means", means, {-1, 3});
  const int64_t count = means.shape[0];
  return {count, means.data, expect("quats", quats, {count, 4}), expect("scales", scales, {count, 3}),
          expect("opacities", opacities, {count})};
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

}  // namespace

void bind_splats(nb::module_& module) {
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  module.def(
      "project",
      [](const Tensor<const float>& means, const Tensor<const float>& quats, const Tensor<const float>& scales,
         const Tensor<const float>& opacities, const Tensor<const float>& view, const Tensor<const float>& intrinsics,
         int width, int height, float nearest, float farthest, float blur, float smallest_radius, bool compensated,
         const Tensor<float>& means2d, const Tensor<float>& depths, const Tensor<float>& conics,
         const Tensor<float>& compensations, const Tensor<int32_t>& radii, int threads) {
        const hardy::Gaussians gaussians = gaussians_of(means, quats, scales, opacities);
        const int64_t count = gaussians.count;
        const hardy::Camera camera{expect("view", view, {4, 4}), expect("intrinsics", intrinsics, {3, 3}),
                                   width, height, nearest, farthest, blur, smallest_radius};
        const hardy::Projected out{expect("means2d", means2d, {count, 2}), expect("depths", depths, {count}),
                                   expect("conics", conics, {count, 3}),
                                   expect("compensations", compensations, {count}),
                                   expect("radii", radii, {count, 2})};
        hardy::project(gaussians, camera, compensated, out, threads);
      },
      released);
  module.def(
      "project_backward",
      [](const Tensor<const float>& means, const Tensor<const float>& quats, const Tensor<const float>& scales,
         const Tensor<const float>& opacities, const Tensor<const float>& view, const Tensor<const float>& intrinsics,
         int width, int height, float nearest, float farthest, float blur, float smallest_radius,
         const Tensor<const int32_t>& radii, const Tensor<const float>& by_means2d,
         const Tensor<const float>& by_depths, const Tensor<const float>& by_conics,
         const Tensor<const float>& by_compensations, const Tensor<float>& means_gradient,
         const Tensor<float>& quats_gradient, const Tensor<float>& scales_gradient, const Tensor<float>& view_gradient,
         const Tensor<float>& intrinsics_gradient, int threads) {
        const hardy::Gaussians gaussians = gaussians_of(means, quats, scales, opacities);
        const int64_t count = gaussians.count;
        const hardy::Camera camera{expect("view", view, {4, 4}), expect("intrinsics", intrinsics, {3, 3}),
                                   width, height, nearest, farthest, blur, smallest_radius};
        const hardy::ProjectedGradients in{expect("by_means2d", by_means2d, {count, 2}),
                                           expect("by_depths", by_depths, {count}),
                                           expect("by_conics", by_conics, {count, 3}),
                                           expect("by_compensations", by_compensations, {count})};
        const hardy::GaussianGradients out{expect("means_gradient", means_gradient, {count, 3}),
                                           expect("quats_gradient", quats_gradient, {count, 4}),
                                           expect("scales_gradient", scales_gradient, {count, 3}),
                                           expect("view_gradient", view_gradient, {4, 4}),
                                           expect("intrinsics_gradient", intrinsics_gradient, {3, 3})};
        hardy::project_backward(gaussians, camera, expect("radii", radii, {count, 2}), in, out, threads);
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

void bind_patchmatch(nb::module_& module) {
  module.def(
      "nearest_patches",
      [](const Tensor<const float>& image, const Tensor<const uint8_t>& usable, const Tensor<const int64_t>& targets,
         const Tensor<const int32_t>& place, const Tensor<int64_t>& field, const Tensor<float>& distances, int radius,
         int rounds, uint32_t seed, int threads) {
        expect("image", image, {-1, -1, -1});
        const int64_t height = image.shape[0], width = image.shape[1], count = targets.size();
        hardy::nearest_patches({height, width, image.shape[2], image.data, expect("usable", usable, {height, width}),
                                expect("targets", targets, {count}), expect("place", place, {height, width}), count,
                                radius, rounds, seed},
                               expect("field", field, {count}), expect("distances", distances, {count}), threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}
