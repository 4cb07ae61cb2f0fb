// Products with packed weights, and the steps of decoding around them.
#include "bindings.h"
#include "binary_conv.h"
#include "decode_step.h"
#include "huge_pages.h"
#include "rotation.h"
#include "trit_product.h"

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

}  // namespace

void bind_trit_product(nb::module_& module) {
  module.def("trit_product_paths", &hardy::trit_product_paths);
  bind_product(module, "trit_product", hardy::Form::kTrits, 3);
  bind_product(module, "grid_product", hardy::Form::kGrid, 4);
  module.def(
      "rotate",
      [](const std::string& path, const Tensor<const float>& x, int64_t size, const Tensor<float>& output,
         int threads) {
        if (size < 1 || (size & (size - 1))) throw nb::value_error("size must be a power of two");
        const int64_t width = x.ndim ? x.shape[x.ndim - 1] : 0;
        expect_size("output", output, x.size());
        if (width) hardy::rotate(path, x.data, x.size() / width, width, size, output.data, threads);
      },
      "path"_a, "x"_a, "size"_a, "output"_a, "threads"_a, nb::call_guard<nb::gil_scoped_release>());
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
