#include "trit_product.h"

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "threads.h"

#if defined(__x86_64__) || defined(_M_X64)
#define HARDY_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define HARDY_ARM
#ifdef __linux__
#include <sys/auxv.h>
#endif
#endif

namespace hardy {
namespace {

#ifdef HARDY_X86
struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf) {
#ifdef _MSC_VER
  int r[4];
  __cpuidex(r, static_cast<int>(leaf), 0);
  return {uint32_t(r[0]), uint32_t(r[1]), uint32_t(r[2]), uint32_t(r[3])};
#else
  Registers r{};
  __cpuid_count(leaf, 0, r.a, r.b, r.c, r.d);
  return r;
#endif
}

// The registers that the system saves when it switches between threads.
uint64_t saved_registers() {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t(high) << 32) | low;
#endif
}

bool all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

void add_x86(std::vector<const Path*>& paths) {
  if (cpuid(0).a < 7) return;
  const uint32_t avx_f16c_osxsave = 1u << 28 | 1u << 29 | 1u << 27;
  if (!all(cpuid(1).c, avx_f16c_osxsave) || !all(saved_registers(), 0x6)) return;
  const Registers seven = cpuid(7);
  if (!all(seven.b, 1u << 5)) return;  // AVX2
  const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, vnni = 1u << 11;
  if (all(seven.b, f_dq_bw_vl) && all(seven.c, vnni) && all(saved_registers(), 0xe6)) paths.push_back(&kAvx512);
  paths.push_back(&kAvx2);
}
#endif

#ifdef HARDY_ARM
bool has_dot_products() {
#if defined(__APPLE__)
  return true;  // every 64-bit Mac has them
#elif defined(__linux__)
  return getauxval(AT_HWCAP) & (1u << 20);  // HWCAP_ASIMDDP
#else
  return false;
#endif
}
#endif

const std::vector<const Path*>& paths() {
  static const std::vector<const Path*> found = [] {
    std::vector<const Path*> list;
#ifdef HARDY_X86
    add_x86(list);
#endif
#ifdef HARDY_ARM
    if (has_dot_products()) list.push_back(&kNeonDot);
    list.push_back(&kNeon);
#endif
    list.push_back(&kScalar);
    return list;
  }();
  return found;
}

// Threads are woken for no less than this many codes times tokens: about 20 microseconds of work.
constexpr int64_t kWorthAThread = int64_t{1} << 21;

}  // namespace

std::vector<std::string> trit_product_paths() {
  std::vector<std::string> names;
  for (const Path* path : paths()) names.emplace_back(path->name);
  return names;
}

const Path& path_named(const std::string& name) {
  const auto& known = paths();
  const auto found = std::find_if(known.begin(), known.end(), [&](const Path* path) { return name == path->name; });
  if (found == known.end()) throw std::invalid_argument("this processor has no path " + name);
  return **found;
}

void trit_product(const std::string& name, const PlaneMatrix& matrix, const float* x, int64_t tokens, float* output,
                  int threads) {
  const Path& path = path_named(name);
  if (tokens == 0 || matrix.rows == 0) return;

  const int64_t groups = matrix.groups(), padded = matrix.padded_group();
  const std::unique_ptr<int8_t[]> codes(new int8_t[tokens * groups * padded]);
  const std::unique_ptr<float[]> scales(new float[tokens * groups]);
  const std::unique_ptr<int32_t[]> sums(new int32_t[tokens * groups]);
  const Activations activations{codes.get(), scales.get(), sums.get()};

  const int64_t work = tokens * matrix.rows * groups * padded * matrix.planes;
  const int useful = static_cast<int>(std::min<int64_t>(threads, 1 + work / kWorthAThread));
  parallel_for(tokens, 8, useful, [&](int64_t begin, int64_t end) {
    path.quantize(matrix, x, begin, end, activations);
  });
  // Four parts to a thread, so that one that started late leaves its share to the others.
  const int64_t superblocks = (matrix.blocks() + kSuperblock - 1) / kSuperblock;
  const int64_t grain = std::max<int64_t>(1, superblocks / (4 * std::max(useful, 1)));
  parallel_for(superblocks, grain, useful, [&](int64_t begin, int64_t end) {
    path.product(matrix, activations, tokens, begin * kSuperblock, std::min(end * kSuperblock, matrix.blocks()), output);
  });
}

}  // namespace hardy
