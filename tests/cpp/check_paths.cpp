// Every path of the trit product against the plain one, bit for bit, without Python: for processors that are emulated.
//
//     cmake -S . -B build/arm -DHARDY_PYTHON=OFF -DHARDY_CHECKS=ON -DCMAKE_SYSTEM_NAME=Linux \
//         -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static
//     cmake --build build/arm && qemu-aarch64 -cpu max build/arm/check_paths
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "trit_product.h"

int main() {
  using namespace hardy;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  int64_t compared = 0, wrong = 0;
  struct Shape {
    int64_t rows, width, group_size;
  };
  const auto paths = trit_product_paths();
  for (const Shape& shape : {Shape{16, 16, 16}, Shape{33, 300, 42}, Shape{100, 130, 4}, Shape{64, 515, 64},
                             Shape{70, 256, 128}, Shape{17, 1100, 1100}, Shape{20, 2500, 1200}}) {
    for (int kind = 0; kind < 7; ++kind) {  // one to three trit-planes, one to four digits of codes on a grid
      const Form form = kind < 3 ? Form::kTrits : Form::kGrid;
      const int planes = kind < 3 ? kind + 1 : kind - 2, values = form == Form::kTrits ? 3 : 4;
      PlaneMatrix m{nullptr, nullptr, shape.rows, shape.width, shape.group_size, planes, form};
      std::vector<uint8_t> codes(m.blocks() * m.groups() * m.lines() * kLine);
      for (auto& byte : codes) {
        byte = 0;
        for (int field = 0; field < 4; ++field) byte |= (random() % values) << (2 * field);
      }
      std::vector<uint16_t> scales(m.blocks() * m.groups() * m.vectors() * kRows);
      for (auto& scale : scales) scale = random() % 0x7c00;  // any finite float16 number from zero up
      m.codes = codes.data();
      m.scales = scales.data();
      std::vector<float> x(50 * shape.width);
      for (auto& value : x) value = normal(random);
      x[49 * shape.width] = std::numeric_limits<float>::infinity();
      x[48 * shape.width] = std::numeric_limits<float>::quiet_NaN();
      for (int64_t i = 0; i < shape.width; ++i) x[47 * shape.width + i] = 0x1p-120f;
      for (int64_t tokens : {1, 2, 3, 4, 7, 17, 50}) {
        std::vector<float> expected(tokens * shape.rows), found(tokens * shape.rows);
        trit_product("scalar", m, x.data(), tokens, expected.data(), 1);
        for (const auto& path : paths) {
          for (int threads : {1, 2}) {
            std::fill(found.begin(), found.end(), -1.0f);
            trit_product(path, m, x.data(), tokens, found.data(), threads);
            ++compared;
            for (size_t i = 0; i < found.size(); ++i) {
              const bool both_nan = found[i] != found[i] && expected[i] != expected[i];
              if (!both_nan && std::memcmp(&found[i], &expected[i], 4) != 0) {
                std::printf("%s: %lld x %lld, groups of %lld, %d planes of %s, %lld tokens: [%zu] is %a, not %a\n",
                            path.c_str(), (long long)shape.rows, (long long)shape.width, (long long)shape.group_size,
                            planes, form == Form::kGrid ? "codes" : "trits", (long long)tokens, i, found[i], expected[i]);
                ++wrong;
                break;
              }
            }
          }
        }
      }
    }
  }
  for (const auto& path : paths) std::printf("%s ", path.c_str());
  std::printf("\n%lld products compared, %lld wrong\n", (long long)compared, (long long)wrong);
  return wrong != 0;
}
