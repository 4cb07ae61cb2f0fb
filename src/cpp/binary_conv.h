// Convolutions of few-bit activations with weights of one bit, on the CPU, bit plane by bit plane.
//
// What is computed and where rounding happens is told in src/hardy/ops/binary_conv.py, whose torch reference gives the
// same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#ifdef _MSC_VER
#define HARDY_INLINE __forceinline
#define HARDY_UNROLL
#else
#define HARDY_UNROLL _Pragma("GCC unroll 8")
#define HARDY_INLINE inline __attribute__((always_inline))
#endif

namespace hardy {

constexpr int kLanes = 8;      // output pixels side by side, and output channels
constexpr int kMaxPlanes = 8;  // bits of a code

struct BinaryConv {
  int64_t images, channels, height, width;
  int64_t out, kernel_height, kernel_width;
  int64_t stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width;
  bool channels_last;  // of input and output: a linear layer is a convolution of pixels with theirs

  // code = factor * round(clip((x - shift) / step + zero, 0, largest)), half to even
  float step, zero, largest;
  const float* shift;  // (channels,) or null
  int factor, padding_code, planes;

  // (ceil(out / kLanes), kernel_height, row_words(), kLanes): bit 1 for +1; a row of the kernel is (kernel_width,
  // channel_bytes), filled up to whole words.
  const uint64_t* signs;
  // y = scale * sum of sign * (code - padding_code) + offset * sum of (code - padding_code) + bias
  const float *scale, *offset, *bias;  // (out,)
  const int64_t* sign_sums;            // (out,), padding_code * sum of signs

  int64_t channel_bytes() const { return (channels + 7) / 8; }
  int64_t row_words() const { return (kernel_width * channel_bytes() + 7) / 8; }
  int64_t words() const { return kernel_height * row_words(); }
  int64_t padded_height() const { return height + 2 * pad_height; }
  int64_t padded_width() const { return width + 2 * pad_width; }
  int64_t out_height() const {
    return (padded_height() - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  int64_t out_width() const { return (padded_width() - dilation_width * (kernel_width - 1) - 1) / stride_width + 1; }
  int64_t pixels() const { return out_height() * out_width(); }
  int64_t blocks() const { return (out_width() + kLanes - 1) / kLanes; }  // of a row of output pixels
  // Of one row of the padded image: what each output pixel of a row sees of it, (planes, row_words, blocks * kLanes).
  int64_t row_size() const { return planes * row_words() * blocks() * kLanes; }
};

// One instruction set's loops.
struct BinaryPath {
  // What output pixels see of the rows `begin` to `end` of a padded image, into `seen`, which holds all of its rows.
  // `bytes` has room for scratch_bytes. Returns whether what was read is finite.
  bool (*quantize)(const BinaryConv&, const float* image, int64_t begin, int64_t end, uint64_t* seen, uint8_t* bytes);
  // One row of output pixels, of `seen` of all rows of the padded image.
  void (*product)(const BinaryConv&, const uint64_t* seen, int64_t row, float* output);
};

// Bytes that `quantize` works in for so many rows: the bits of a padded row and of all pixels, their codes, and some
// more, as bits are copied eight bytes at a time.
inline int64_t scratch_bytes(const BinaryConv& conv, int64_t rows) {
  const int64_t pixels = rows * conv.width, codes = conv.channels_last ? conv.channels + 8 : pixels * (1 + conv.planes);
  return conv.planes * (conv.padded_width() + pixels) * conv.channel_bytes() + codes + 16;
}

extern const BinaryPath kBinaryScalar, kBinaryAvx2, kBinaryAvx512, kBinaryNeon;

// output (images, out, out_height, out_width), or with the channels last, of x (images, channels, height, width),
// likewise. `path` is one of trit_product_paths(). False, and no output, if an input is NaN or infinite.
bool binary_conv(const std::string& path, const BinaryConv& conv, const float* x, float* output, int threads);

}  // namespace hardy
