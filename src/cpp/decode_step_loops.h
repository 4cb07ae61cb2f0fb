// The loops of a decoding step, the same for every instruction set: included behind trit_product_loops.h.

constexpr int kLanes = 16;

// Sums of `kLanes` numbers at a time, which the compiler keeps in registers.
HARDY_INLINE float total_of(const float (&lanes)[kLanes]) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

HARDY_INLINE float root_of(float x) {
#ifdef _MSC_VER
  return std::sqrt(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// e^x to 2e-7 of it, without a branch: 2^n times a polynomial on half an octave to either side. Below -87 it is zero.
HARDY_INLINE float exponential(float x) {
  const float shifted = x * 1.44269504f + 12582912.0f;  // at 1.5 * 2^23 floats are integers
  const float whole = shifted - 12582912.0f;
  const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.98756915e-4f;
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345193e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666654e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4b400000 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : p * power;
}

void add_rms_norm(float* residual, const float* delta, const float* weight, float epsilon, int64_t size,
                  float* output) {
  if (delta)
    for (int64_t i = 0; i < size; ++i) residual[i] += delta[i];
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += residual[i + l] * residual[i + l];
  for (; i < size; ++i) lanes[0] += residual[i] * residual[i];
  const float factor = 1.0f / root_of(total_of(lanes) / static_cast<float>(size) + epsilon);
  for (i = 0; i < size; ++i) output[i] = residual[i] * factor * weight[i];
}

void gate(Gate kind, const float* both, int64_t size, float* output) {
  const float* up = both + size;
  if (kind == Gate::kSilu) {
    for (int64_t i = 0; i < size; ++i) {
      const float x = both[i] < -80.0f ? -80.0f : both[i];
      output[i] = both[i] / (1.0f + exponential(-x)) * up[i];
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      const float x = both[i], inner = 1.59576912f * (x + 0.044715f * x * x * x);  // 2 sqrt(2 / pi)
      const float bounded = inner > 80.0f ? 80.0f : inner < -80.0f ? -80.0f : inner;
      output[i] = x / (1.0f + exponential(-bounded)) * up[i];
    }
  }
}

// Scores of H query heads from `query` on with the 16 keys of a block: (H, 16), `stride` apart.
template <int H>
HARDY_INLINE void scores_of_block(const float* query, int64_t size, const uint16_t* keys, float scaling, float* scores,
                                  int64_t stride) {
  Isa::Floats sums[H];
  for (int h = 0; h < H; ++h) sums[h] = Isa::floats(0.0f);
  for (int64_t i = 0; i < size; ++i) {
    const Isa::Floats key = Isa::halves(keys + i * kLanes);
    for (int h = 0; h < H; ++h) sums[h] = Isa::add(sums[h], Isa::mul(key, Isa::floats(query[h * size + i])));
  }
  for (int h = 0; h < H; ++h) Isa::store(scores + h * stride, Isa::mul(sums[h], Isa::floats(scaling)));
}

// What H heads see of the values (positions, size): sums over positions, 16 numbers of a head at a time.
template <int H>
HARDY_INLINE void weigh_values(const float* weights, int64_t stride, const uint16_t* values, int64_t positions,
                               int64_t size, float* output) {
  for (int64_t at = 0; at < size; at += kLanes) {
    Isa::Floats sums[H];
    for (int h = 0; h < H; ++h) sums[h] = Isa::floats(0.0f);
    for (int64_t t = 0; t < positions; ++t) {
      const Isa::Floats value = Isa::halves(values + t * size + at);
      for (int h = 0; h < H; ++h) sums[h] = Isa::add(sums[h], Isa::mul(value, Isa::floats(weights[h * stride + t])));
    }
    for (int h = 0; h < H; ++h) Isa::store(output + h * size + at, sums[h]);
  }
}

// The softmax of scores[begin:end], in place.
inline void softmax(float* scores, int64_t begin, int64_t end) {
  float largest = scores[begin];
  for (int64_t t = begin; t < end; ++t) largest = scores[t] > largest ? scores[t] : largest;
  float lanes[kLanes] = {};
  int64_t t = begin;
  for (; t + kLanes <= end; t += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float weight = exponential(scores[t + l] - largest);
      scores[t + l] = weight;
      lanes[l] += weight;
    }
  }
  for (; t < end; ++t) lanes[0] += scores[t] = exponential(scores[t] - largest);
  const float factor = 1.0f / total_of(lanes);
  for (t = begin; t < end; ++t) scores[t] *= factor;
}

// H query heads from `head` on, which share a key head.
template <int H>
void attend_heads(const Attention& a, int64_t head, int64_t key_head, float* scores) {
  const int64_t end = a.position + 1, begin = end > a.window ? end - a.window : 0;
  const int64_t first = begin / kLanes, last = (end + kLanes - 1) / kLanes, stride = last * kLanes;
  const uint16_t* keys = a.keys + key_head * a.capacity * a.size;
  const float* query = a.projected + head * a.size;
  for (int64_t block = first; block < last; ++block)
    scores_of_block<H>(query, a.size, keys + block * a.size * kLanes, a.scaling, scores + block * kLanes, stride);
  for (int h = 0; h < H; ++h) softmax(scores + h * stride, begin, end);
  weigh_values<H>(scores + begin, stride, a.values + (key_head * a.capacity + begin) * a.size, end - begin, a.size,
                  a.output + head * a.size);
}

void attend(const Attention& a, int64_t begin, int64_t end) {
  const int64_t shared = a.heads / a.key_heads;
  float* scores = new float[4 * (a.position + kLanes)];
  for (int64_t k = begin; k < end; ++k) {
    int64_t head = k * shared;
    const int64_t behind = head + shared;
    for (; head + 4 <= behind; head += 4) attend_heads<4>(a, head, k, scores);
    if (behind - head == 3) attend_heads<3>(a, head, k, scores);
    if (behind - head == 2) attend_heads<2>(a, head, k, scores);
    if (behind - head == 1) attend_heads<1>(a, head, k, scores);
  }
  delete[] scores;
}
