// What finds few bits: trits of weights, and rounding with error feedback.
#include "bindings.h"
#include "feedback.h"
#include "trits.h"

namespace {

template <class T>
void bind_fit_trits_of(nb::module_& module) {
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

}  // namespace

void bind_fit_trits(nb::module_& module) {
  bind_fit_trits_of<float>(module);
  bind_fit_trits_of<double>(module);
}

namespace {

hardy::FeedbackGroup group_of(const Tensor<const float>& columns, const Tensor<const float>& factor,
                              const Tensor<float>& errors) {
  expect("columns", columns, {-1, -1});
  const int64_t inputs = columns.shape[0], outputs = columns.shape[1];
  return {inputs, outputs, columns.data, expect("factor", factor, {inputs, inputs}),
          expect("errors", errors, {inputs, outputs})};
}

}  // namespace

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
