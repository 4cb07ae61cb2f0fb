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

// The bits of `count` pixels from `first` on, (planes, count, channel_bytes), plane after plane. `scratch` holds codes.
HARDY_INLINE bool pixel_bits(const BinaryConv& conv, const float* image, int64_t first, int64_t count,
                             uint8_t* __restrict bits, uint8_t* __restrict scratch) {
  const int64_t bytes = conv.channel_bytes(), plane = count * bytes;
  bool finite = true;
  if (conv.channels_last) {
    for (int64_t x = 0; x < count; ++x) {
      std::memset(scratch + conv.channels, 0, 8);
      finite &= round_codes(conv, image + (first + x) * conv.channels, conv.shift, 1, conv.channels, scratch);
      for (int p = 0; p < conv.planes; ++p) {
        for (int64_t b = 0; b < bytes; ++b) {
          uint64_t eight;
          std::memcpy(&eight, scratch + 8 * b, 8);
          // The lowest bit of each byte, gathered in the highest.
          eight = (eight >> p & 0x0101010101010101u) * 0x0102040810204080u;
          bits[p * plane + x * bytes + b] = static_cast<uint8_t>(eight >> 56);
        }
      }
    }
    return finite;
  }
  for (int64_t b = 0; b < bytes; ++b) {
    const int64_t left = conv.channels - 8 * b, channels = left < 8 ? left : 8;
    uint8_t* __restrict all = scratch + count;
    std::memset(all, 0, conv.planes * count);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t channel = 8 * b + c;
      const float* from = image + channel * conv.height * conv.width + first;
      finite &= round_codes(conv, from, conv.shift ? conv.shift + channel : nullptr, 0, count, scratch);
      const uint8_t mark = static_cast<uint8_t>(1 << c);
      for (int p = 0; p < conv.planes; ++p) {
        uint8_t* __restrict plane_all = all + p * count;
        const uint8_t bit = static_cast<uint8_t>(1 << p);
        for (int64_t x = 0; x < count; ++x) plane_all[x] |= scratch[x] & bit ? mark : 0;
      }
    }
    for (int p = 0; p < conv.planes; ++p)
      for (int64_t x = 0; x < count; ++x) bits[p * plane + x * bytes + b] = all[p * count + x];
  }
  return finite;
}

// What output pixels see of a row of the padded image, whose bits begin at `row`, a plane every `stride` bytes.
HARDY_INLINE void look(const BinaryConv& conv, const uint8_t* row, int64_t stride, uint64_t* seen) {
  const int64_t lanes = conv.blocks() * kLanes, out_width = conv.out_width(), words = conv.row_words();
  const int64_t bytes = conv.channel_bytes(), piece = conv.kernel_width * bytes, step = conv.stride_width * bytes;
  for (int p = 0; p < conv.planes; ++p) {
    uint64_t* to = seen + p * words * lanes;
    const uint8_t* from = row + p * stride;
    if (conv.dilation_width == 1) {
      for (int64_t j = 0; j < words; ++j) {
        const int64_t left = piece - 8 * j;
        const uint64_t kept = left >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * left) - 1;
        for (int64_t x = 0; x < out_width; ++x) {
          uint64_t word;
          std::memcpy(&word, from + x * step + 8 * j, 8);
          to[j * lanes + x] = word & kept;
        }
        for (int64_t x = out_width; x < lanes; ++x) to[j * lanes + x] = 0;
      }
      continue;
    }
    std::memset(to, 0, words * lanes * 8);
    for (int64_t x = 0; x < out_width; ++x)
      for (int64_t i = 0; i < piece; ++i) {
        const uint64_t byte = from[x * step + i / bytes * conv.dilation_width * bytes + i % bytes];
        to[i / 8 * lanes + x] |= byte << 8 * (i % 8);
      }
  }
}

bool quantize(const BinaryConv& conv, const float* image, int64_t begin, int64_t end, uint64_t* seen, uint8_t* memory) {
  const int64_t bytes = conv.channel_bytes(), padded = conv.padded_width(), stride = padded * bytes;
  uint8_t* line = memory;  // one row of the padded image; its border is filled once
  uint8_t* bits = memory + conv.planes * stride + 8;
  const auto fill = [&] {  // with what padding holds: the code of zero in every channel that there is
    for (int p = 0; p < conv.planes; ++p) {
      const bool set = conv.padding_code >> p & 1;
      std::memset(line + p * stride, set ? 0xff : 0, stride);
      if (set && conv.channels % 8)
        for (int64_t x = 0; x < padded; ++x)
          line[p * stride + x * bytes + bytes - 1] = static_cast<uint8_t>((1 << conv.channels % 8) - 1);
    }
  };
  const int64_t last = conv.pad_height + conv.height;
  const int64_t from = begin > conv.pad_height ? begin : conv.pad_height, to = end < last ? end : last;
  bool finite = true;
  fill();
  for (int64_t row = begin; row < end; ++row)
    if (row < conv.pad_height || row >= last) look(conv, line, stride, seen + row * conv.row_size());
  if (from >= to) return true;
  const int64_t count = (to - from) * conv.width;
  uint8_t* scratch = bits + conv.planes * count * bytes;
  finite = pixel_bits(conv, image, (from - conv.pad_height) * conv.width, count, bits, scratch);
  for (int64_t row = from; row < to; ++row) {
    for (int p = 0; p < conv.planes; ++p)
      std::memcpy(line + p * stride + conv.pad_width * bytes, bits + (p * count + (row - from) * conv.width) * bytes,
                  conv.width * bytes);
    look(conv, line, stride, seen + row * conv.row_size());
  }
  return finite;
}

// Sums over a window: set bits of the planes, each with its weight; that is the shared column of ones.
template <int kPlanes>
HARDY_INLINE typename Isa::Words total_of(const BinaryConv& conv, const uint64_t* window) {
  const int64_t words = conv.row_words(), lanes = conv.blocks() * kLanes;
  const int64_t next = conv.dilation_height * conv.row_size();
  typename Isa::Words total = Isa::zero();
  for (int64_t r = 0; r < conv.kernel_height; ++r)
    for (int p = 0; p < kPlanes; ++p) {
      typename Isa::Words plane = Isa::zero();
      for (int64_t j = 0; j < words; ++j)
        plane = Isa::count(plane, Isa::load(window + r * next + (p * words + j) * lanes));
      total = Isa::add_shifted(total, plane, p);
    }
  return total;
}

template <int kPlanes>
void product_of(const BinaryConv& conv, const uint64_t* seen, int64_t row, float* output) {
  constexpr int kFit = Isa::kSums / kPlanes, kChunk = 16;  // blocks that the same weights serve
  constexpr int kTile = kFit >= 8 ? 8 : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  const int64_t words = conv.row_words(), lanes = conv.blocks() * kLanes, width = conv.out_width();
  const int64_t taken = conv.padding_code * conv.kernel_height * conv.kernel_width * conv.channels;
  const uint64_t* top = seen + row * conv.stride_height * conv.row_size();
  const int64_t next = conv.dilation_height * conv.row_size();
  typename Isa::Words totals[kChunk];
  for (int64_t chunk = 0; chunk < conv.blocks(); chunk += kChunk) {
    const int64_t blocks = conv.blocks() - chunk < kChunk ? conv.blocks() - chunk : kChunk;
    for (int64_t b = 0; b < blocks; ++b) totals[b] = total_of<kPlanes>(conv, top + (chunk + b) * kLanes);
    for (int64_t n = 0; n < conv.out; n += kTile) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t begin = (chunk + b) * kLanes, first = row * width + begin;
        const int count = static_cast<int>(width - begin < kLanes ? width - begin : kLanes);
        typename Isa::Words sums[kTile][kPlanes];
        HARDY_UNROLL for (int i = 0; i < kTile; ++i) {
          HARDY_UNROLL for (int p = 0; p < kPlanes; ++p) sums[i][p] = Isa::zero();
        }
        const uint64_t* signs = conv.signs + n / kLanes * conv.words() * kLanes + n % kLanes;
        for (int64_t r = 0; r < conv.kernel_height; ++r) {
          const uint64_t* window = top + r * next + begin;
          for (int64_t j = 0; j < words; ++j, signs += kLanes, window += lanes)
            HARDY_UNROLL for (int p = 0; p < kPlanes; ++p) {
              const typename Isa::Words one = Isa::load(window + p * words * lanes);
              HARDY_UNROLL for (int i = 0; i < kTile; ++i) sums[i][p] = Isa::count(sums[i][p], one, signs[i]);
            }
        }
        const typename Isa::Floats column = Isa::dot(totals[b], totals[b], &taken);  // 2 total - total - taken
        HARDY_UNROLL for (int i = 0; i < kTile; ++i) {  // unrolled, or the sums would be an array in memory
          if (n + i >= conv.out) continue;
          typename Isa::Words sum = sums[i][0];
          HARDY_UNROLL for (int p = 1; p < kPlanes; ++p) sum = Isa::add_shifted(sum, sums[i][p], p);
          const int64_t channel = n + i;
          const typename Isa::Floats y = Isa::affine(Isa::dot(sum, totals[b], conv.sign_sums + channel), column,
                                                     conv.scale[channel], conv.offset[channel], conv.bias[channel]);
          if (conv.channels_last)
            Isa::store_apart(output + first * conv.out + channel, conv.out, y, count);
          else
            Isa::store(output + channel * conv.pixels() + first, y, count);
        }
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
