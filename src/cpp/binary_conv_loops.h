// The loops of all instruction sets, over what `Isa` defines. Included within the anonymous namespace of each.

// (x - shift) / step + zero, clipped and rounded half to even, for `count` neighbours; whether all are finite.
HARDY_INLINE bool round_codes(const BinaryConv& conv, const float* __restrict x, const float* __restrict shift,
                              int64_t shift_step, int64_t count, uint8_t* __restrict codes) {
  const float step = conv.step, zero = conv.zero, largest = conv.largest, magic = 12582912.0f;  // 1.5 * 2^23
  const uint32_t factor = static_cast<uint32_t>(conv.factor), exponent = 0x7f800000;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t given, bits;
    std::memcpy(&given, x + i, 4);
    bad |= (given & exponent) == exponent ? 1u : 0u;
    const float from = shift ? x[i] - shift[i * shift_step] : x[i];
    float u = from / step + zero;
    u = u > 0.0f ? u : 0.0f;
    u = u < largest ? u : largest;
    const float moved = u + magic;
    std::memcpy(&bits, &moved, 4);
    codes[i] = static_cast<uint8_t>((bits & 0xff) * factor);
  }
  return bad == 0;
}

// The bits of a row of an image, (planes, padded_width, channel_bytes), without its border, from `stride` on plane after
// plane. `scratch` holds codes.
HARDY_INLINE bool row_bits(const BinaryConv& conv, const float* image, int64_t row, uint8_t* __restrict bits,
                           int64_t stride, uint8_t* __restrict scratch) {
  const int64_t bytes = conv.channel_bytes(), width = conv.width;
  bool finite = true;
  if (conv.channels_last) {
    for (int64_t x = 0; x < width; ++x) {
      std::memset(scratch, 0, bytes * 8);
      finite &= round_codes(conv, image + (row * width + x) * conv.channels, conv.shift, 1, conv.channels, scratch);
      for (int p = 0; p < conv.planes; ++p) {
        for (int64_t b = 0; b < bytes; ++b) {
          unsigned eight = 0;
          for (int c = 0; c < 8; ++c) eight |= static_cast<unsigned>(scratch[8 * b + c] >> p & 1) << c;
          bits[p * stride + x * bytes + b] = static_cast<uint8_t>(eight);
        }
      }
    }
    return finite;
  }
  for (int64_t b = 0; b < bytes; ++b) {
    const int64_t left = conv.channels - 8 * b, count = left < 8 ? left : 8;
    uint8_t* __restrict all = scratch + width;
    std::memset(all, 0, conv.planes * width);
    for (int64_t c = 0; c < count; ++c) {
      const int64_t channel = 8 * b + c;
      const float* from = image + (channel * conv.height + row) * width;
      finite &= round_codes(conv, from, conv.shift ? conv.shift + channel : nullptr, 0, width, scratch);
      const uint8_t mark = static_cast<uint8_t>(1 << c);
      for (int p = 0; p < conv.planes; ++p) {
        const uint8_t bit = static_cast<uint8_t>(1 << p);
        for (int64_t x = 0; x < width; ++x) all[p * width + x] |= scratch[x] & bit ? mark : 0;
      }
    }
    for (int p = 0; p < conv.planes; ++p)
      for (int64_t x = 0; x < width; ++x) bits[p * stride + x * bytes + b] = all[p * width + x];
  }
  return finite;
}

bool quantize(const BinaryConv& conv, const float* image, int64_t row, uint64_t* seen, uint8_t* memory) {
  const int64_t bytes = conv.channel_bytes(), padded = conv.padded_width(), stride = padded * bytes;
  uint8_t* bits = memory;
  uint8_t* scratch = memory + conv.planes * stride + 8;
  const bool inside = row >= 0 && row < conv.height;
  bool finite = true;
  if (!inside || conv.pad_width) {  // what padding holds: the code of zero in every channel that there is
    for (int p = 0; p < conv.planes; ++p) {
      const bool set = conv.padding_code >> p & 1;
      std::memset(bits + p * stride, set ? 0xff : 0, stride);
      if (set && conv.channels % 8)
        for (int64_t x = 0; x < padded; ++x)
          bits[p * stride + x * bytes + bytes - 1] = static_cast<uint8_t>((1 << conv.channels % 8) - 1);
    }
  }
  if (inside) finite = row_bits(conv, image, row, bits + conv.pad_width * bytes, stride, scratch);

  const int64_t lanes = conv.blocks() * kLanes, out_width = conv.out_width(), words = conv.row_words();
  const int64_t piece = conv.kernel_width * bytes;
  for (int p = 0; p < conv.planes; ++p) {
    uint64_t* to = seen + p * words * lanes;
    const uint8_t* from = bits + p * stride;
    if (conv.dilation_width == 1) {
      for (int64_t j = 0; j < words; ++j) {
        const int64_t left = piece - 8 * j;
        const uint64_t kept = left >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * left) - 1;
        for (int64_t x = 0; x < out_width; ++x) {
          uint64_t word;
          std::memcpy(&word, from + x * conv.stride_width * bytes + 8 * j, 8);
          to[j * lanes + x] = word & kept;
        }
        for (int64_t x = out_width; x < lanes; ++x) to[j * lanes + x] = 0;
      }
      continue;
    }
    std::memset(to, 0, words * lanes * 8);
    for (int64_t x = 0; x < out_width; ++x)
      for (int64_t i = 0; i < piece; ++i) {
        const int64_t column = x * conv.stride_width + i / bytes * conv.dilation_width;
        to[i / 8 * lanes + x] |= static_cast<uint64_t>(from[column * bytes + i % bytes]) << 8 * (i % 8);
      }
  }
  return finite;
}

template <int kPlanes>
void product_of(const BinaryConv& conv, const uint64_t* seen, int64_t row, float* output) {
  constexpr int kFit = Isa::kSums / kPlanes;
  constexpr int kTile = kFit >= 8 ? 8 : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  const int64_t words = conv.row_words(), lanes = conv.blocks() * kLanes, width = conv.out_width();
  const int64_t taken = conv.padding_code * conv.kernel_height * conv.kernel_width * conv.channels;
  const uint64_t* top = seen + row * conv.stride_height * conv.row_size();
  const int64_t next = conv.dilation_height * conv.row_size();
  for (int64_t begin = 0; begin < width; begin += kLanes) {
    const int64_t first = row * width + begin;
    const int count = static_cast<int>(width - begin < kLanes ? width - begin : kLanes);
    typename Isa::Words ones = Isa::zero();
    for (int64_t r = 0; r < conv.kernel_height; ++r)
      for (int p = 0; p < kPlanes; ++p) {
        typename Isa::Words plane = Isa::zero();
        for (int64_t j = 0; j < words; ++j)
          plane = Isa::count(plane, Isa::load(top + r * next + (p * words + j) * lanes + begin));
        ones = Isa::add_shifted(ones, plane, p);
      }
    for (int64_t n = 0; n < conv.out; n += kTile) {
      typename Isa::Words sums[kTile][kPlanes];
      for (int i = 0; i < kTile; ++i)
        for (int p = 0; p < kPlanes; ++p) sums[i][p] = Isa::zero();
      const uint64_t* signs = conv.signs + n / kLanes * conv.words() * kLanes + n % kLanes;
      for (int64_t r = 0; r < conv.kernel_height; ++r) {
        const uint64_t* window = top + r * next + begin;
        for (int64_t j = 0; j < words; ++j, signs += kLanes, window += lanes)
          for (int p = 0; p < kPlanes; ++p) {
            const typename Isa::Words one = Isa::load(window + p * words * lanes);
            for (int i = 0; i < kTile; ++i) sums[i][p] = Isa::count(sums[i][p], one, signs[i]);
          }
      }
      for (int i = 0; i < kTile && n + i < conv.out; ++i) {
        typename Isa::Words total = sums[i][0];
        for (int p = 1; p < kPlanes; ++p) total = Isa::add_shifted(total, sums[i][p], p);
        const int64_t channel = n + i;
        const typename Isa::Floats y =
            Isa::affine(total, ones, conv.sign_sums[channel], taken, conv.scale[channel], conv.offset[channel],
                        conv.bias[channel]);
        if (conv.channels_last)
          Isa::store_apart(output + first * conv.out + channel, conv.out, y, count);
        else
          Isa::store(output + channel * conv.pixels() + first, y, count);
      }
    }
  }
}

void product(const BinaryConv& conv, const uint64_t* seen, int64_t row, float* output) {
  using Loop = void (*)(const BinaryConv&, const uint64_t*, int64_t, float*);
  constexpr Loop loops[kMaxPlanes] = {product_of<1>, product_of<2>, product_of<3>, product_of<4>,
                                      product_of<5>, product_of<6>, product_of<7>, product_of<8>};
  loops[conv.planes - 1](conv, seen, row, output);
}
