#include "binary_conv.h"

#include <algorithm>
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

// What padding holds: the code of zero in every channel that there is.
void fill_border(const BinaryConv& conv, uint8_t* planes) {
  const int64_t bytes = conv.channel_bytes(), pixels = conv.padded_height() * conv.padded_width();
  for (int p = 0; p < conv.planes; ++p) {
    uint8_t* plane = planes + p * conv.plane_bytes();
    if (!(conv.padding_code >> p & 1)) {
      std::memset(plane, 0, conv.plane_bytes());
      continue;
    }
    std::memset(plane, 0xff, conv.plane_bytes());
    if (conv.channels % 8)
      for (int64_t i = 0; i < pixels; ++i) plane[i * bytes + bytes - 1] = uint8_t((1 << conv.channels % 8) - 1);
  }
}

constexpr int64_t kWorthAThread = int64_t{1} << 16;  // words times channels

}  // namespace

void binary_conv(const std::string& name, const BinaryConv& conv, const float* x, float* output, int threads) {
  const BinaryPath& path = path_of(name);
  const int64_t blocks = (conv.pixels() + kLanes - 1) / kLanes, words = conv.words();
  if (conv.images == 0 || conv.out == 0 || conv.pixels() <= 0) return;
  // Windows are copied eight bytes at a time, so there must be some more at the end.
  const std::unique_ptr<uint8_t[]> planes(new uint8_t[conv.images * conv.image_bytes() + 8]);
  const int64_t work = conv.images * blocks * conv.planes * words * conv.out;
  const int useful = static_cast<int>(std::min<int64_t>(threads, 1 + work / kWorthAThread));

  if (conv.pad_height || conv.pad_width)
    for (int64_t i = 0; i < conv.images; ++i) fill_border(conv, planes.get() + i * conv.image_bytes());
  const int64_t image_size = conv.channels * conv.height * conv.width;
  parallel_for(conv.images * conv.height, std::max<int64_t>(1, 4096 / (conv.channels * conv.width)), useful,
               [&](int64_t begin, int64_t end) {
                 const int64_t row = std::max(conv.width, (conv.channels + 7) / 8 * 8);
                 const std::unique_ptr<uint8_t[]> scratch(new uint8_t[row * (1 + kMaxPlanes)]);
                 for (int64_t i = begin; i < end; ++i)
                   path.quantize(conv, x + i / conv.height * image_size, i % conv.height,
                                 planes.get() + i / conv.height * conv.image_bytes(), scratch.get());
               });
  const int64_t grain = std::max<int64_t>(1, blocks * conv.images / (4 * std::max(useful, 1)));
  parallel_for(conv.images * blocks, grain, useful, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<uint64_t[]> memory(new uint64_t[conv.planes * words * kLanes + words + 1 + kLanes]);
    const uintptr_t line = reinterpret_cast<uintptr_t>(memory.get());
    uint64_t* scratch = memory.get() + (-line & 63) / 8;
    for (int64_t i = begin; i < end;) {
      const int64_t image = i / blocks, last = std::min(end, (image + 1) * blocks);
      path.product(conv, planes.get() + image * conv.image_bytes(), i - image * blocks, last - image * blocks, scratch,
                   output + image * conv.out * conv.pixels());
      i = last;
    }
  });
}

}  // namespace hardy
