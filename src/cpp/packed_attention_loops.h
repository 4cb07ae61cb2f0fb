// The loops of packed attention; included after lanes.h, inside of an unnamed namespace.

// Bit pattern to float: exponents are 15 and 127 off zero, which 2^112 mends, for subnormal numbers too.
HARDY_INLINE float half_to_float(uint16_t h) {
  const uint32_t magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
  float value;
  std::memcpy(&value, &magnitude, 4);
  value *= 5.192296858534828e33f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits |= sign;
  std::memcpy(&value, &bits, 4);
  return value;
}

HARDY_INLINE float brain_half_to_float(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <int Bits>
HARDY_INLINE void unpack_codes(const uint8_t* from, int64_t dim, float* to) {
  constexpr int kFields = 8 / Bits;
  const int64_t width = dim / kFields;
  for (int field = 0; field < kFields; ++field)
    for (int64_t j = 0; j < width; ++j)
      to[field * width + j] = static_cast<float>((from[j] >> (field * Bits)) & ((1 << Bits) - 1));
}

// The codes or values of one token as floats.
HARDY_INLINE void unpack(int format, const uint8_t* from, int64_t dim, float* to) {
  const auto* halves = reinterpret_cast<const uint16_t*>(from);
  switch (format) {
    case 2: return unpack_codes<2>(from, dim, to);
    case 4: return unpack_codes<4>(from, dim, to);
    case 8: return unpack_codes<8>(from, dim, to);
    case kHalf:
      for (int64_t j = 0; j < dim; ++j) to[j] = half_to_float(halves[j]);
      return;
    default:
      for (int64_t j = 0; j < dim; ++j) to[j] = brain_half_to_float(halves[j]);
  }
}

HARDY_INLINE float dot(const float* a, const float* b, int64_t dim) {
  Row sums = row_of(0.0f);
  for (int64_t j = 0; j < dim; j += kTile)
    for (int i = 0; i < kRegisters; ++i)
      sums.part[i] += load(a + j + i * HARDY_LANES) * load(b + j + i * HARDY_LANES);
  return sum(sums);
}

// exp(largest - score) in the place of each score; their sum. There is room for a whole number of rows.
HARDY_INLINE float exponentials(float* scores, int64_t count, float largest) {
  for (int64_t t = count; t % kTile; ++t) scores[t] = largest - 1000.0f;
  Row sums = row_of(0.0f);
  for (int64_t t = 0; t < count; t += kTile)
    for (int i = 0; i < kRegisters; ++i) {
      float* place = scores + t + i * HARDY_LANES;
      const Floats value = exp_minus(all(largest) - load(place));
      store(place, value);
      sums.part[i] += value;
    }
  return sum(sums);
}

void attend(const AttentionSegment& segment, const AttentionQuery& query, int64_t row, int64_t begin, int64_t end,
            const AttentionPartial& out, float* workspace) {
  const int64_t dim = query.dim, group = query.group;
  const int64_t key_bytes = AttentionSegment::bytes(segment.key_format, dim);
  const int64_t value_bytes = AttentionSegment::bytes(segment.value_format, dim);
  const uint8_t* keys = segment.keys + row * segment.room * key_bytes;
  const uint8_t* values = segment.values + row * segment.room * value_bytes;
  const uint16_t* value_scales = segment.value_scales ? segment.value_scales + row * segment.room * 2 : nullptr;
  const int16_t* pages = segment.pages ? segment.pages + row / segment.rows_per_page_row * segment.room : nullptr;
  const float* queries = query.query + row * group * dim;

  float* unpacked = workspace;                          // (block, dim): values
  float* key = unpacked + kAttentionBlock * dim;        // (dim,)
  float* channel = key + dim;                           // (dim,): a page's minima or scales
  float* scaled = channel + dim;                        // (group, dim): queries times the page's scales
  float* scores = scaled + group * dim;                 // (group, block)
  float* offsets = scores + group * kAttentionBlock;    // (group,)
  if (!pages) {
    std::memcpy(scaled, queries, sizeof(float) * group * dim);
    for (int64_t g = 0; g < group; ++g) offsets[g] = 0.0f;
  }
  for (int64_t g = 0; g < group; ++g) {
    out.largest[g] = -1e30f;
    out.sum[g] = 0.0f;
  }
  std::memset(out.mixed, 0, sizeof(float) * group * dim);

  int page = -1;
  for (int64_t start = begin, stop; start < end; start = stop) {
    stop = start + kAttentionBlock < end ? start + kAttentionBlock : end;
    if (pages) {
      int64_t same = start + 1;
      while (same < stop && pages[same] == pages[start]) ++same;
      stop = same;
      if (pages[start] != page) {
        page = pages[start];
        const uint16_t* scales = segment.key_scales + (row * segment.page_count + page) * 2 * dim;
        for (int64_t j = 0; j < dim; ++j) channel[j] = half_to_float(scales[dim + j]);
        for (int64_t g = 0; g < group; ++g) offsets[g] = dot(queries + g * dim, channel, dim);
        for (int64_t j = 0; j < dim; ++j) channel[j] = half_to_float(scales[j]);
        for (int64_t g = 0; g < group; ++g)
          for (int64_t j = 0; j < dim; ++j) scaled[g * dim + j] = queries[g * dim + j] * channel[j];
      }
    }
    const int64_t count = stop - start;
    for (int64_t t = 0; t < count; ++t) {
      unpack(segment.key_format, keys + (start + t) * key_bytes, dim, key);
      for (int64_t g = 0; g < group; ++g)
        scores[g * kAttentionBlock + t] = query.scale * (offsets[g] + dot(scaled + g * dim, key, dim));
      unpack(segment.value_format, values + (start + t) * value_bytes, dim, unpacked + t * dim);
    }
    for (int64_t g = 0; g < group; ++g) {
      float* weights = scores + g * kAttentionBlock;
      float* mixed = out.mixed + g * dim;
      float largest = out.largest[g];
      for (int64_t t = 0; t < count; ++t) largest = weights[t] > largest ? weights[t] : largest;
      float before[kTile] = {};
      before[0] = out.largest[g];
      exponentials(before, 1, largest);
      const float kept = before[0];
      out.largest[g] = largest;
      out.sum[g] = out.sum[g] * kept + exponentials(weights, count, largest);
      float minimum = 0.0f;
      if (value_scales)
        for (int64_t t = 0; t < count; ++t) {
          const uint16_t* scale = value_scales + (start + t) * 2;
          minimum += weights[t] * half_to_float(scale[1]);
          weights[t] *= half_to_float(scale[0]);
        }
      for (int64_t j = 0; j < dim; j += kTile) {
        Row sums;
        for (int i = 0; i < kRegisters; ++i) sums.part[i] = load(mixed + j + i * HARDY_LANES) * kept + minimum;
        for (int64_t t = 0; t < count; ++t)
          for (int i = 0; i < kRegisters; ++i)
            sums.part[i] += load(unpacked + t * dim + j + i * HARDY_LANES) * weights[t];
        for (int i = 0; i < kRegisters; ++i) store(mixed + j + i * HARDY_LANES, sums.part[i]);
      }
    }
  }
}
