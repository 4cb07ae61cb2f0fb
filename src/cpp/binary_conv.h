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
#else
#define HARDY_INLINE inline __attribute__((always_inline))
#endif

namespace hardy {

constexpr int kLanes = 8;      // output pixels side by side
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

  const uint64_t* signs;  // (out, words()): bit 1 for +1, in the order (kernel_height, kernel_width, channel_bytes)
  // y = scale * sum of sign * (code - padding_code) + offset * sum of (code - padding_code) + bias
  const float *scale, *offset, *bias;  // (out,)
  const int32_t* sign_sums;            // (out,), padding_code * sum of signs

  int64_t channel_bytes() const { return (channels + 7) / 8; }
  int64_t words() const { return (kernel_height * kernel_width * channel_bytes() + 7) / 8; }
  int64_t padded_height() const { return height + 2 * pad_height; }
  int64_t padded_width() const { return width + 2 * pad_width; }
  int64_t out_height() const {
    return (padded_height() - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  int64_t out_width() const { return (padded_width() - dilation_width * (kernel_width - 1) - 1) / stride_width + 1; }
  int64_t pixels() const { return out_height() * out_width(); }
  int64_t plane_bytes() const { return padded_height() * padded_width() * channel_bytes(); }
  int64_t image_bytes() const { return planes * plane_bytes(); }
};

// One instruction set's loops. Ranges are half-open.
struct BinaryPath {
  // The bit planes of one row of an image (planes, padded_height, padded_width, channel_bytes), the border left alone.
  void (*quantize)(const BinaryConv&, const float* image, int64_t row, uint8_t* planes, uint8_t* scratch);
  // The outputs of blocks of kLanes pixels of an image. `scratch` holds planes * words * kLanes words.
  void (*product)(const BinaryConv&, const uint8_t* planes, int64_t block_begin, int64_t block_end, uint64_t* scratch,
                  float* output);
};

extern const BinaryPath kBinaryScalar, kBinaryAvx2, kBinaryAvx512, kBinaryNeon;

// output (images, out, out_height, out_width), or with the channels last, of x (images, channels, height, width),
// likewise. `path` is one of trit_product_paths().
void binary_conv(const std::string& path, const BinaryConv& conv, const float* x, float* output, int threads);

}  // namespace hardy
