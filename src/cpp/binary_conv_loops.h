// The loops of all instruction sets, over what `Isa` defines. Included within the anonymous namespace of each.

// (x - shift) / step + zero, clipped and rounded half to even, for `count` neighbours.
HARDY_INLINE void round_codes(const BinaryConv& conv, const float* x, const float* shift, int64_t shift_step,
                              int64_t count, uint8_t* codes) {
  const float step = conv.step, zero = conv.zero, largest = conv.largest, magic = 12582912.0f;  // 1.5 * 2^23
  const int factor = conv.factor;
  for (int64_t i = 0; i < count; ++i) {
    const float from = shift ? x[i] - shift[i * shift_step] : x[i];
    float u = from / step + zero;
    u = u > 0.0f ? u : 0.0f;
    u = u < largest ? u : largest;
    const float moved = u + magic;
    uint32_t bits;
    std::memcpy(&bits, &moved, 4);
    codes[i] = static_cast<uint8_t>((bits & 0xff) * factor);
  }
}

void quantize(const BinaryConv& conv, const float* image, int64_t row, uint8_t* planes, uint8_t* scratch) {
  const int64_t bytes = conv.channel_bytes(), width = conv.width;
  uint8_t* first = planes + ((row + conv.pad_height) * conv.padded_width() + conv.pad_width) * bytes;
  if (conv.channels_last) {
    for (int64_t x = 0; x < width; ++x) {
      std::memset(scratch, 0, bytes * 8);
      round_codes(conv, image + (row * width + x) * conv.channels, conv.shift, 1, conv.channels, scratch);
      for (int p = 0; p < conv.planes; ++p) {
        uint8_t* out = first + p * conv.plane_bytes() + x * bytes;
        for (int64_t b = 0; b < bytes; ++b) {
          uint64_t eight = 0;
          for (int c = 0; c < 8; ++c) eight |= static_cast<uint64_t>(scratch[8 * b + c] >> p & 1) << c;
          out[b] = static_cast<uint8_t>(eight);
        }
      }
    }
    return;
  }
  uint8_t* codes = scratch;
  for (int64_t b = 0; b < bytes; ++b) {
    const int64_t left = conv.channels - 8 * b, count = left < 8 ? left : 8;
    std::memset(scratch + width, 0, conv.planes * width);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t channel = 8 * b + c;
      const float* from = image + (channel * conv.height + row) * width;
      round_codes(conv, from, conv.shift ? conv.shift + channel : nullptr, 0, width, codes);
      const uint8_t mark = static_cast<uint8_t>(1 << c);
      for (int p = 0; p < conv.planes; ++p) {
        uint8_t* all = scratch + width * (1 + p);
        const uint8_t bit = static_cast<uint8_t>(1 << p);
        for (int64_t x = 0; x < width; ++x) all[x] |= codes[x] & bit ? mark : 0;
      }
    }
    for (int p = 0; p < conv.planes; ++p) {
      uint8_t* out = first + p * conv.plane_bytes() + b;
      const uint8_t* all = scratch + width * (1 + p);
      for (int64_t x = 0; x < width; ++x) out[x * bytes] = all[x];
    }
  }
}

// The window of one output pixel in one plane, word after word, `kLanes` apart. Writes up to eight bytes beyond `line`.
HARDY_INLINE void gather(const BinaryConv& conv, const uint8_t* corner, int64_t words, uint64_t* line, uint64_t* out) {
  const int64_t bytes = conv.channel_bytes(), row = conv.padded_width() * bytes * conv.dilation_height;
  const bool dense = conv.dilation_width == 1;
  const int64_t pieces = dense ? 1 : conv.kernel_width, piece = dense ? conv.kernel_width * bytes : bytes;
  uint8_t* to = reinterpret_cast<uint8_t*>(line);
  for (int64_t r = 0; r < conv.kernel_height; ++r) {
    for (int64_t s = 0; s < pieces; ++s) {
      const uint8_t* from = corner + r * row + s * conv.dilation_width * bytes;
      for (int64_t i = 0; i < piece; i += 8) std::memcpy(to + i, from + i, 8);
      to += piece;
    }
  }
  std::memset(to, 0, 8);  // what the last copy took too much, within the last word
  for (int64_t k = 0; k < words; ++k) out[k * kLanes] = line[k];
}

template <int kPlanes, int kTile>
HARDY_INLINE void tile(const BinaryConv& conv, const uint64_t* windows, int64_t words, int64_t n,
                       typename Isa::Words ones, int64_t first, int count, float* output) {
  typename Isa::Words sums[kTile][kPlanes];
  for (int i = 0; i < kTile; ++i)
    for (int p = 0; p < kPlanes; ++p) sums[i][p] = Isa::zero();
  const uint64_t* signs = conv.signs + n * words;
  for (int64_t k = 0; k < words; ++k) {
    typename Isa::Words window[kPlanes];
    for (int p = 0; p < kPlanes; ++p) window[p] = Isa::load(windows + (p * words + k) * kLanes);
    for (int i = 0; i < kTile; ++i)
      for (int p = 0; p < kPlanes; ++p) sums[i][p] = Isa::count(sums[i][p], window[p], signs[i * words + k]);
  }
  for (int i = 0; i < kTile; ++i) {
    typename Isa::Words total = sums[i][0];
    for (int p = 1; p < kPlanes; ++p) total = Isa::add_shifted(total, sums[i][p], p);
    const int64_t channel = n + i;
    const int64_t taken = conv.padding_code * conv.kernel_height * conv.kernel_width * conv.channels;
    const typename Isa::Floats y =
        Isa::affine(total, ones, conv.sign_sums[channel], taken, conv.scale[channel], conv.offset[channel],
                    conv.bias[channel]);
    if (conv.channels_last)
      Isa::store_apart(output + first * conv.out + channel, conv.out, y, count);
    else
      Isa::store(output + channel * conv.pixels() + first, y, count);
  }
}

template <int kPlanes>
void product_of(const BinaryConv& conv, const uint8_t* planes, int64_t block_begin, int64_t block_end,
                uint64_t* scratch, float* output) {
  constexpr int kTile = Isa::kSums / kPlanes >= 8 ? 8 : Isa::kSums / kPlanes >= 4 ? 4 : Isa::kSums / kPlanes >= 2 ? 2 : 1;
  const int64_t words = conv.words(), width = conv.out_width(), pixels = conv.pixels(), bytes = conv.channel_bytes();
  uint64_t* line = scratch + kPlanes * words * kLanes;
  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t first = block * kLanes;
    const int count = static_cast<int>(pixels - first < kLanes ? pixels - first : kLanes);
    int64_t y = first / width, x = first % width;
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint8_t* corner =
          planes + (y * conv.stride_height * conv.padded_width() + x * conv.stride_width) * bytes;
      for (int p = 0; p < kPlanes; ++p)
        gather(conv, corner + p * conv.plane_bytes(), words, line, scratch + p * words * kLanes + lane);
      if (lane + 1 < count && ++x == width) x = 0, ++y;  // lanes beyond the last pixel repeat it
    }
    typename Isa::Words ones = Isa::zero();
    for (int p = 0; p < kPlanes; ++p) {
      typename Isa::Words plane = Isa::zero();
      for (int64_t k = 0; k < words; ++k) plane = Isa::count(plane, Isa::load(scratch + (p * words + k) * kLanes), ~uint64_t{0});
      ones = Isa::add_shifted(ones, plane, p);
    }
    int64_t n = 0;
    for (; n + kTile <= conv.out; n += kTile)
      tile<kPlanes, kTile>(conv, scratch, words, n, ones, first, count, output);
    for (; n < conv.out; ++n) tile<kPlanes, 1>(conv, scratch, words, n, ones, first, count, output);
  }
}

void product(const BinaryConv& conv, const uint8_t* planes, int64_t block_begin, int64_t block_end, uint64_t* scratch,
             float* output) {
  using Loop = void (*)(const BinaryConv&, const uint8_t*, int64_t, int64_t, uint64_t*, float*);
  constexpr Loop loops[kMaxPlanes] = {product_of<1>, product_of<2>, product_of<3>, product_of<4>,
                                      product_of<5>, product_of<6>, product_of<7>, product_of<8>};
  loops[conv.planes - 1](conv, planes, block_begin, block_end, scratch, output);
}
