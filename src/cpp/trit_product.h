// Activations times a matrix of trit-planes, or of codes on a grid, on the CPU, without the dense matrix.
//
// What is computed, the layout of the codes and where rounding happens are told in src/hardy/ops/trit_product.py and
// grid_product.py, whose torch references give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "decode_step.h"

#ifdef _MSC_VER
#include <cmath>
#define HARDY_INLINE __forceinline
#define HARDY_UNROLL
#else
#define HARDY_UNROLL _Pragma("GCC unroll 8")
#define HARDY_INLINE inline __attribute__((always_inline))
#endif

namespace hardy {

constexpr int kRows = 16;        // of a block, side by side in a line
constexpr int kLine = 64;        // bytes: 16 rows x 4 inputs, four codes of two bits in each
constexpr int kSuperblock = 4;   // blocks whose lines take turns in memory; the last may have fewer
constexpr int kTokensAtOnce = 48;  // that unpacked codes serve; 6 and 8 divide it

enum class Form {
  kTrits,  // a plane is codes trit + 1, each with a scale
  kGrid,   // planes are the digits of one code to base 4, the lowest first; a group has a scale and a zero point
};

struct PlaneMatrix {
  const uint8_t* codes;    // for each superblock (groups, lines, blocks, 64)
  const uint16_t* scales;  // for each superblock (groups, blocks, vectors, 16), float16
  int64_t rows, width, group_size;
  int planes;
  Form form = Form::kTrits;

  // Numbers beside the codes for a group of a row.
  int vectors() const { return form == Form::kTrits ? planes : 2; }

  int64_t blocks() const { return (rows + kRows - 1) / kRows; }
  int64_t groups() const { return (width + group_size - 1) / group_size; }
  int64_t padded_group() const {
    const int64_t step = planes % 2 ? 16 : 8;
    return (group_size + step - 1) / step * step;
  }
  // Lines of a group that hold two planes, for each pair of planes, and those that hold one, if their number is odd.
  int64_t pair_lines() const { return padded_group() / 8; }
  int64_t single_lines() const { return planes % 2 ? padded_group() / 16 : 0; }
  int64_t lines() const { return planes / 2 * pair_lines() + single_lines(); }

  // Blocks in the superblock of `block`, which are also the lines from one line of a block to its next.
  int64_t neighbours(int64_t block) const {
    const int64_t rest = blocks() - first_of(block);
    return rest < kSuperblock ? rest : kSuperblock;
  }
  const uint8_t* codes_at(int64_t block, int64_t group) const {
    const int64_t first = first_of(block);
    return codes + ((first * groups() + group * neighbours(block)) * lines() + block - first) * kLine;
  }
  const uint16_t* scales_at(int64_t block, int64_t group) const {
    const int64_t first = first_of(block);
    return scales + (first * groups() + group * neighbours(block) + block - first) * vectors() * kRows;
  }

 private:
  static int64_t first_of(int64_t block) { return block / kSuperblock * kSuperblock; }
};

struct Activations {
  int8_t* codes;   // (tokens, groups, padded_group)
  float* scales;   // (tokens, groups)
  int32_t* sums;   // (tokens, groups), of the codes
};

// One instruction set's loops. Tokens and blocks are half-open ranges.
struct Path {
  const char* name;
  void (*quantize)(const PlaneMatrix&, const float* x, int64_t token_begin, int64_t token_end, const Activations&);
  // `output` is (tokens, rows).
  void (*product)(const PlaneMatrix&, const Activations&, int64_t tokens, int64_t block_begin, int64_t block_end,
                  float* output);
  // The loops of decode_step.h; `attend` does the key heads from `begin` to `end`.
  void (*add_rms_norm)(float* residual, const float* delta, const float* weight, float epsilon, int64_t size,
                       float* output);
  void (*attend)(const Attention&, int64_t begin, int64_t end);
  void (*gate)(Gate, const float* both, int64_t size, float* output);
  // Of rotation.h: one row, in place.
  void (*rotate)(float* x, int64_t width, int64_t size);
};

extern const Path kScalar, kAvx2, kAvx512, kNeon, kNeonDot;

// The names of the paths that this processor can take, the fastest first.
std::vector<std::string> trit_product_paths();
// The path of this name; if there is none, std::invalid_argument.
const Path& path_named(const std::string& name);

// output (tokens, rows) = x (tokens, width) times the matrix. An unknown path is std::invalid_argument.
void trit_product(const std::string& path, const PlaneMatrix& matrix, const float* x, int64_t tokens, float* output,
                  int threads);

}  // namespace hardy
