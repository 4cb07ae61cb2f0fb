// hardy._kernels: what Python sees of the compiled kernels. Tensors come as addresses, checked on the Python side.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "binary_conv.h"
#include "decode_step.h"
#include "feedback.h"
#include "huge_pages.h"
#include "packed_attention.h"
#include "patchmatch.h"
#include "projection.h"
#include "splat.h"
#include "tensor.h"
#include "trit_product.h"
#include "trits.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
using hardy::expect;
using hardy::expect_size;
using hardy::Tensor;

namespace {

void bind_product(nb::module_& module, const char* name, hardy::Form form, int most) {
  module.def(
      name,
      [form, most](const std::string& path, const Tensor<const float>& x, const Tensor<const uint8_t>& codes,
         const Tensor<const hardy::Half>& scales, int64_t rows, int64_t width, int64_t group_size, int planes,
         const Tensor<float>& output, int threads) {
        if (rows < 1 || width < 1 || group_size < 1 || planes < 1 || planes > most)
          throw nb::value_error("rows, width and group_size must be at least 1, planes 1 to 3, or 4 of a grid");
        const hardy::PlaneMatrix matrix{codes.data, &scales.data->bits, rows, width, group_size, planes, form};
        expect_size("codes", codes, matrix.blocks() * matrix.groups() * matrix.lines() * hardy::kLine);
        expect_size("scales", scales, matrix.blocks() * matrix.groups() * matrix.vectors() * hardy::kRows);
        const int64_t tokens = x.size() / width;
        hardy::trit_product(path, matrix, expect_size("x", x, tokens * width), tokens,
                            expect_size("output", output, tokens * rows), threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}

void bind_trit_product(nb::module_& module) {
  module.def("trit_product_paths", &hardy::trit_product_paths);
  bind_product(module, "trit_product", hardy::Form::kTrits, 3);
  bind_product(module, "grid_product", hardy::Form::kGrid, 4);
  module.def("advise_huge_pages", [](const Tensor<uint8_t>& memory) {
    hardy::advise_huge_pages(reinterpret_cast<uintptr_t>(memory.data), memory.size());
  });
}
void bind_decode_step(nb::module_& module) {
  module.def(
      "add_rms_norm",
      [](const std::string& path, const Tensor<float>& residual, const std::optional<Tensor<const float>>& delta,
         const Tensor<const float>& weight, float epsilon, const Tensor<float>& output) {
        const int64_t size = weight.size();
        hardy::add_rms_norm(path, expect_size("residual", residual, size),
                            delta ? expect_size("delta", *delta, size) : nullptr, weight.data, epsilon, size,
                            expect_size("output", output, size));
      },
      "path"_a, "residual"_a, "delta"_a.none(), "weight"_a, "epsilon"_a, "output"_a);
  module.def(
      "attend",
      [](const std::string& path, const Tensor<float>& projected, const Tensor<const float>& cosines,
         const Tensor<const float>& sines, const std::optional<Tensor<const float>>& query_norm,
         const std::optional<Tensor<const float>>& key_norm, float epsilon, const Tensor<hardy::Half>& keys,
         const Tensor<hardy::Half>& values, const Tensor<const int64_t>& position, int64_t window, float scaling,
         const Tensor<float>& output, int threads) {
        expect("keys", keys, {-1, -1, -1, 16});
        const int64_t key_heads = keys.shape[0], capacity = 16 * keys.shape[1], size = keys.shape[2];
        expect("values", values, {key_heads, capacity, size});
        const int64_t heads = size ? output.size() / size : 0, at = *expect("position", position, {1});
        if (size % 16 || key_heads < 1 || heads < 1 || heads % key_heads || at < 0 || at >= capacity || window < 1)
          throw nb::value_error("heads must be of a multiple of 16 numbers and share keys evenly, in the cache's room");
        expect("cosines", cosines, {-1, size});
        expect("sines", sines, {cosines.shape[0], size});
        if (at >= cosines.shape[0]) throw nb::value_error("there is no rotation for this position");
        const hardy::Attention attention{
            heads, key_heads, size, capacity, at, window, scaling, cosines.data + at * size, sines.data + at * size,
            query_norm ? expect("query_norm", *query_norm, {size}) : nullptr,
            key_norm ? expect("key_norm", *key_norm, {size}) : nullptr, epsilon,
            expect_size("projected", projected, (heads + 2 * key_heads) * size), &keys.data->bits, &values.data->bits,
            expect_size("output", output, heads * size)};
        nb::gil_scoped_release release;
        hardy::attend(path, attention, threads);
      },
      "path"_a, "projected"_a, "cosines"_a, "sines"_a, "query_norm"_a.none(), "key_norm"_a.none(), "epsilon"_a,
      "keys"_a, "values"_a, "position"_a, "window"_a, "scaling"_a, "output"_a, "threads"_a);
  module.def("gate", [](const std::string& path, bool silu, const Tensor<const float>& both,
                        const Tensor<float>& output) {
    const int64_t size = output.size();
    hardy::gate(path, silu ? hardy::Gate::kSilu : hardy::Gate::kGeluTanh, expect_size("both", both, 2 * size), size,
                output.data);
  });
}

void bind_binary_conv(nb::module_& module) {
  module.def(
      "binary_conv",
      [](const std::string& path, const Tensor<const float>& x, const Tensor<float>& output, bool channels_last,
         int threads, const std::vector<int64_t>& kernel, const std::vector<float>& grid,
         const std::optional<Tensor<const float>>& shift, int factor, int padding_code, int planes,
         const Tensor<const int64_t>& signs, const Tensor<const float>& scale, const Tensor<const float>& offset,
         const Tensor<const float>& bias, const Tensor<const int64_t>& sign_sums) {
        if (kernel.size() != 8 || grid.size() != 3) throw nb::value_error("kernel must have 8 numbers, grid 3");
        if (planes < 1 || planes > hardy::kMaxPlanes) throw nb::value_error("planes must be 1 to 8");
        if (*std::min_element(kernel.begin(), kernel.end()) < 0 || kernel[2] < 1 || kernel[3] < 1)
          throw nb::value_error("sizes must not be negative, strides at least 1");
        expect("x", x, {-1, -1, -1, -1});
        expect("scale", scale, {-1});
        hardy::BinaryConv conv{};
        const int c = channels_last ? 3 : 1, h = channels_last ? 1 : 2;
        conv.images = x.shape[0], conv.channels = x.shape[c], conv.height = x.shape[h], conv.width = x.shape[h + 1];
        conv.out = scale.shape[0];
        conv.kernel_height = kernel[0], conv.kernel_width = kernel[1];
        conv.stride_height = kernel[2], conv.stride_width = kernel[3];
        conv.pad_height = kernel[4], conv.pad_width = kernel[5];
        conv.dilation_height = kernel[6], conv.dilation_width = kernel[7];
        conv.channels_last = channels_last;
        conv.step = grid[0], conv.zero = grid[1], conv.largest = grid[2];
        conv.shift = shift ? expect("shift", *shift, {conv.channels}) : nullptr;
        conv.factor = factor, conv.padding_code = padding_code, conv.planes = planes;
        const int64_t tiles = (conv.out + hardy::kLanes - 1) / hardy::kLanes;
        conv.signs = reinterpret_cast<const uint64_t*>(expect("signs", signs, {tiles, conv.words(), hardy::kLanes}));
        conv.scale = scale.data;
        conv.offset = expect("offset", offset, {conv.out});
        conv.bias = expect("bias", bias, {conv.out});
        conv.sign_sums = expect("sign_sums", sign_sums, {conv.out});
        const int64_t height = conv.out_height(), width = conv.out_width();
        if (channels_last)
          expect("output", output, {conv.images, height, width, conv.out});
        else
          expect("output", output, {conv.images, conv.out, height, width});
        nb::gil_scoped_release release;
        return hardy::binary_conv(path, conv, x.data, output.data, threads);
      },
      "path"_a, "x"_a, "output"_a, "channels_last"_a, "threads"_a, "kernel"_a, "grid"_a, "shift"_a.none(), "factor"_a,
      "padding_code"_a, "planes"_a, "signs"_a, "scale"_a, "offset"_a, "bias"_a, "sign_sums"_a);
}

template <class T>
void bind_fit_trits(nb::module_& module) {
  module.def(
      "fit_trits",
      [](const Tensor<const T>& weights, const Tensor<const double>& lengths, const std::vector<int>& starts,
         int64_t iterations, double tolerance, int64_t first, const Tensor<int8_t>& trits, const Tensor<float>& scales,
         const Tensor<uint8_t>& converged, int threads) {
        expect("weights", weights, {-1, -1});
        expect("trits", trits, {-1, -1, -1});
        const int64_t groups = weights.shape[0], size = weights.shape[1], planes = trits.shape[0];
        const int64_t all = trits.shape[1];
        expect("lengths", lengths, {groups});
        expect("trits", trits, {planes, all, size});
        expect("scales", scales, {planes, all});
        expect("converged", converged, {all});
        if (planes < 1 || planes > 3 || size < 1 || first < 0 || first + groups > all)
          throw nb::value_error("planes must be 1 to 3, groups not empty and from `first` on within trits");
        std::vector<hardy::Start> tried;
        for (const int start : starts) tried.push_back(start == 0 ? hardy::Start::kSign : hardy::Start::kMagnitude);
        if (tried.empty()) throw nb::value_error("there must be a start");
        const hardy::TritProblem problem{groups,       size,
                                         lengths.data, static_cast<int>(planes),
                                         tried.data(), static_cast<int64_t>(tried.size()),
                                         iterations,   tolerance};
        hardy::fit_trits(weights.data, problem,
                         {trits.data + first * size, scales.data + first, all, converged.data + first}, threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}

hardy::FeedbackGroup group_of(const Tensor<const float>& columns, const Tensor<const float>& factor,
                              const Tensor<float>& errors) {
  expect("columns", columns, {-1, -1});
  const int64_t inputs = columns.shape[0], outputs = columns.shape[1];
  return {inputs, outputs, columns.data, expect("factor", factor, {inputs, inputs}),
          expect("errors", errors, {inputs, outputs})};
}

void bind_feedback(nb::module_& module) {
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  module.def(
      "round_to_trits",
      [](const Tensor<const float>& columns, const Tensor<const float>& factor, const Tensor<const float>& magnitudes,
         const Tensor<const int8_t>& trits, const Tensor<int8_t>& found, const Tensor<float>& errors, int threads) {
        const hardy::FeedbackGroup group = group_of(columns, factor, errors);
        expect("trits", trits, {-1, -1, group.outputs});
        const int64_t planes = trits.shape[0], count = trits.shape[1];
        if (planes < 1 || planes > 3 || count < 1 || count > 14)
          throw nb::value_error("planes must be 1 to 3, with 1 to 14 levels");
        hardy::round_to_trits(group,
                              {static_cast<int>(planes), static_cast<int>(count),
                               expect("magnitudes", magnitudes, {count, group.outputs}), trits.data},
                              expect("found", found, {planes, group.inputs, group.outputs}), threads);
      },
      released);
  module.def(
      "round_to_grid",
      [](const Tensor<const float>& columns, const Tensor<const float>& factor, const Tensor<const float>& scale,
         const Tensor<const float>& divisor, const Tensor<const float>& zero_point, float lowest, float highest,
         const Tensor<float>& codes, const Tensor<float>& errors, int threads) {
        const hardy::FeedbackGroup group = group_of(columns, factor, errors);
        hardy::round_to_grid(group,
                             {expect("scale", scale, {group.outputs}), expect("divisor", divisor, {group.outputs}),
                              expect("zero_point", zero_point, {group.outputs}), lowest, highest},
                             expect("codes", codes, {group.inputs, group.outputs}), threads);
      },
      released);
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

// Keys or values: codes, or the bits of 16-bit floats.
struct Side {
  const uint8_t* data;
  int64_t room;
};

using Floats16 = std::optional<Tensor<const hardy::Half>>;
using SegmentArguments =
    std::tuple<int, int, int64_t, int64_t, nb::object, nb::object, Floats16, Floats16,
               std::optional<Tensor<const int16_t>>>;

// (batch, heads, room, width) of the format, batch * heads being `rows`.
Side side_of(const char* name, int format, const nb::object& object, int64_t rows, int64_t dim) {
  const auto checked = [&](const auto& tensor, int64_t width) {
    expect(name, tensor, {-1, -1, -1, width});
    if (tensor.shape[0] * tensor.shape[1] != rows) throw nb::value_error("keys and values must fit the queries");
    return Side{reinterpret_cast<const uint8_t*>(tensor.data), tensor.shape[2]};
  };
  if (format == hardy::kHalf || format == hardy::kBrainHalf) return checked(nb::cast<Tensor<const int16_t>>(object), dim);
  if (format != 2 && format != 4 && format != 8) throw nb::value_error("codes have 2, 4 or 8 bits");
  return checked(nb::cast<Tensor<const uint8_t>>(object), dim * format / 8);
}

hardy::AttentionSegment segment_of(const SegmentArguments& given, int64_t rows, int64_t dim) {
  const auto& [key_format, value_format, first, tokens, keys, values, key_scales, value_scales, pages] = given;
  const Side key = side_of("keys", key_format, keys, rows, dim);
  const Side value = side_of("values", value_format, values, rows, dim);
  if (key.room != value.room || first < 0 || first > tokens || tokens > key.room)
    throw nb::value_error("keys and values must hold as many tokens");
  hardy::AttentionSegment segment{key_format, value_format, first,   tokens,  key.room, key.data, value.data,
                                  nullptr,    nullptr,      nullptr, 0,       1};
  if (key_format < hardy::kHalf) {
    if (!key_scales || !pages) throw nb::value_error("packed keys need scales and pages");
    expect("key_scales", *key_scales, {-1, -1, -1, 2, dim});
    expect("pages", *pages, {-1, -1, key.room});
    const int64_t page_rows = pages->shape[0] * pages->shape[1];
    if (key_scales->shape[0] * key_scales->shape[1] != rows || page_rows < 1 || rows % page_rows)
      throw nb::value_error("scales and pages must fit the keys");
    segment.key_scales = &key_scales->data->bits;
    segment.pages = pages->data;
    segment.page_count = key_scales->shape[2];
    segment.rows_per_page_row = rows / page_rows;
    for (int64_t i = 0; i < page_rows; ++i)
      for (int64_t t = first; t < tokens; ++t)
        if (const int16_t page = pages->data[i * key.room + t]; page < 0 || page >= segment.page_count)
          throw nb::value_error("a token is on a page that is not there");
  }
  if (value_format < hardy::kHalf) {
    if (!value_scales) throw nb::value_error("packed values need scales");
    segment.value_scales = &expect_size("value_scales", *value_scales, rows * key.room * 2)->bits;
  }
  return segment;
}

void bind_packed_attention(nb::module_& module) {
  module.def("packed_attention", [](const std::string& path, const Tensor<const float>& query,
                                    const std::vector<SegmentArguments>& given, float scale,
                                    const Tensor<float>& output, int threads) {
    expect("query", query, {-1, -1, -1, -1});
    const int64_t rows = query.shape[0] * query.shape[1], group = query.shape[2], dim = query.shape[3];
    if (given.empty() || dim % 16 || group < 1) throw nb::value_error("dim must be a multiple of 16, and keys be there");
    std::vector<hardy::AttentionSegment> segments;
    for (const SegmentArguments& arguments : given) segments.push_back(segment_of(arguments, rows, dim));
    expect_size("output", output, rows * group * dim);
    nb::gil_scoped_release release;
    hardy::packed_attention(path, {query.data, rows, group, dim, scale}, segments, output.data, threads);
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

}  // namespace

NB_MODULE(_kernels, module) {
  bind_trit_product(module);
  bind_binary_conv(module);
  bind_decode_step(module);
  bind_fit_trits<float>(module);
  bind_fit_trits<double>(module);
  bind_feedback(module);
  bind_splats(module);
  bind_packed_attention(module);
  bind_patchmatch(module);
}
