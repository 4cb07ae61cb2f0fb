// Attention to packed keys and values.
#include "bindings.h"
#include "packed_attention.h"

namespace {

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

}  // namespace

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
