#include "binary_conv.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "threads.h"
#include "trit_product.h"

namespace hardy {
namespace {

#if defined(__x86_64__) || defined(_M_X64)
bool counts_bits_of_registers() {
#ifdef _MSC_VER
  return false;
#else
  return __builtin_cpu_supports("avx512vpopcntdq");
#endif
}
#endif

// The loops for a path of the trit product; processors with AVX-512 that cannot count bits in its registers take AVX2.
const BinaryPath& path_of(const std::string& name) {
  const std::vector<std::string> known = trit_product_paths();
  if (std::find(known.begin(), known.end(), name) == known.end())
    throw std::invalid_argument("this processor has no path " + name);
#if defined(__x86_64__) || defined(_M_X64)
  if (name == "avx512" && counts_bits_of_registers()) return kBinaryAvx512;
  if (name == "avx512" || name == "avx2") return kBinaryAvx2;
#elif defined(__aarch64__) || defined(_M_ARM64)
  if (name != "scalar") return kBinaryNeon;
#endif
  return kBinaryScalar;
}

constexpr int64_t kWorthAThread = int64_t{1} << 16;  // words times channels

}  // namespace

bool binary_conv(const std::string& name, const BinaryConv& conv, const float* x, float* output, int threads) {
  const BinaryPath& path = path_of(name);
  if (conv.images == 0 || conv.out == 0 || conv.pixels() <= 0) return true;
  const int64_t rows = conv.padded_height(), image_words = rows * conv.row_size();
  const std::unique_ptr<uint64_t[]> memory(new uint64_t[conv.images * image_words + kLanes]);
  uint64_t* seen = memory.get() + (-reinterpret_cast<uintptr_t>(memory.get()) & 63) / 8;
  const int64_t work = conv.images * conv.pixels() / kLanes * conv.planes * conv.words() * conv.out;
  const int useful = static_cast<int>(std::min<int64_t>(threads, 1 + work / kWorthAThread));
  const int64_t image_size = conv.channels * conv.height * conv.width;
  std::atomic<bool> finite{true};
  // Some thousand numbers at a time, so that they stay in the cache and fill registers whatever the width is.
  const int64_t part = std::min(rows, std::max<int64_t>(1, 32768 / (conv.channels * conv.width)));
  const int64_t parts = (rows + part - 1) / part;
  parallel_for(conv.images * parts, 1, useful, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint8_t[]> bytes(new uint8_t[scratch_bytes(conv, part)]);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / parts, first = i % parts * part;
      if (!path.quantize(conv, x + image * image_size, first, std::min(rows, first + part), seen + image * image_words,
                         bytes.get()))
        finite = false;
    }
  });
  if (!finite) return false;
  const int64_t out_rows = conv.out_height(), grain = std::max<int64_t>(1, out_rows * conv.images / (4 * useful));
  parallel_for(conv.images * out_rows, grain, useful, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      path.product(conv, seen + i / out_rows * image_words, i % out_rows,
                   output + i / out_rows * conv.out * conv.pixels());
  });
  return true;
}

}  // namespace hardy
