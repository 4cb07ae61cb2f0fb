#include "rotation.h"

#include <algorithm>

#include "threads.h"
#include "trit_product.h"

namespace hardy {
namespace {

// Threads are woken for no fewer numbers than this: about 20 microseconds of work.
constexpr int64_t kWorthAThread = int64_t{1} << 16;

}  // namespace

void rotate(const std::string& name, const float* x, int64_t rows, int64_t width, int64_t size, float* output,
            int threads) {
  const Path& path = path_named(name);
  const int useful = static_cast<int>(std::min<int64_t>(threads, 1 + rows * width / kWorthAThread));
  parallel_for(rows, 8, useful, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* at = output + row * width;
      if (output != x) std::copy_n(x + row * width, width, at);
      path.rotate(at, width, size);
    }
  });
}

}  // namespace hardy
