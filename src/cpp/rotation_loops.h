// The loops of rotation.h, the same for every instruction set, included like trit_product_loops.h. Two stages are done
// at a time, in the order of the reference, which halves what is read and written.

#ifdef __GNUC__
#define HARDY_INDEPENDENT _Pragma("GCC ivdep")
#else
#define HARDY_INDEPENDENT
#endif

HARDY_INLINE void two_stages(float* x, int64_t half) {
  HARDY_INDEPENDENT
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i] + x[i + half], b = x[i] - x[i + half];
    const float c = x[i + 2 * half] + x[i + 3 * half], d = x[i + 2 * half] - x[i + 3 * half];
    x[i] = a + c;
    x[i + half] = b + d;
    x[i + 2 * half] = a - c;
    x[i + 3 * half] = b - d;
  }
}

HARDY_INLINE void one_stage(float* x, int64_t half) {
  HARDY_INDEPENDENT
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a + b;
    x[i + half] = a - b;
  }
}

HARDY_INLINE void rotate_block(float* x, int64_t size) {
  int64_t half = 1;
  if (size >= 4) {
    for (int64_t begin = 0; begin < size; begin += 4) two_stages(x + begin, 1);
    half = 4;
  }
  if (size >= 16) {
    for (int64_t begin = 0; begin < size; begin += 16) two_stages(x + begin, 4);
    half = 16;
  }
  for (; 4 * half <= size; half *= 4)
    for (int64_t begin = 0; begin < size; begin += 4 * half) two_stages(x + begin, half);
  for (; half < size; half *= 2)
    for (int64_t begin = 0; begin < size; begin += 2 * half) one_stage(x + begin, half);
}

inline void rotate(float* x, int64_t width, int64_t size) {
  for (int64_t left = width, block = size; left > 0; left -= block, x += block) {
    while (block > left) block /= 2;
    if (block == 128) {
      rotate_block(x, 128);  // with its loops' lengths known
    } else {
      rotate_block(x, block);
    }
    float scale = 1.0f;  // 1 / sqrt(block), rounded once
    for (int64_t rest = block; rest > 1; rest /= 4) scale *= rest > 2 ? 0.5f : 0.70710678118654752f;
    for (int64_t i = 0; i < block; ++i) x[i] *= scale;
  }
}
