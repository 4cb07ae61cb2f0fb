// Attention of one query per head to packed keys and values; src/hardy/ops/packed_attention.py tells what is computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hardy {

constexpr int kHalf = 16, kBrainHalf = 17;  // formats beside 2, 4 and 8 bits of a code

// The keys and values of some tokens. Rows are (batch, heads of keys); tokens first..tokens of `room` are there.
struct AttentionSegment {
  int key_format, value_format;
  int64_t first, tokens, room;
  const uint8_t *keys, *values;   // (rows, room, bytes)
  const uint16_t* key_scales;     // (rows, pages, 2, dim) float16; null for floats
  const uint16_t* value_scales;   // (rows, room, 2) float16; null for floats
  const int16_t* pages;           // (rows / rows_per_page_row, room); null for floats
  int64_t page_count, rows_per_page_row;

  static int64_t bytes(int format, int64_t dim) { return format >= kHalf ? 2 * dim : dim * format / 8; }
};

struct AttentionQuery {
  const float* query;  // (rows, group, dim); dim is a multiple of 16
  int64_t rows, group, dim;
  float scale;
};

// Of some tokens and one row: for each query the largest score, the sum of exp(score - largest), and the values mixed
// by these.
struct AttentionPartial {
  float* largest;  // (group,)
  float* sum;      // (group,)
  float* mixed;    // (group, dim)
};

// One instruction set's loop over the tokens begin..end of a row.
struct AttentionPath {
  const char* name;
  void (*attend)(const AttentionSegment&, const AttentionQuery&, int64_t row, int64_t begin, int64_t end,
                 const AttentionPartial&, float* workspace);
};

constexpr int64_t kAttentionBlock = 64;  // tokens that are unpacked at once

// Floats that `attend` needs.
inline int64_t attention_workspace(const AttentionQuery& query) {
  return (kAttentionBlock + 2 + query.group) * query.dim + (kAttentionBlock + 1) * query.group;
}

extern const AttentionPath kAttentionBase, kAttentionAvx2, kAttentionAvx512;

// output: (rows, group, dim). The same bits for any number of threads.
void packed_attention(const std::string& path, const AttentionQuery& query,
                      const std::vector<AttentionSegment>& segments, float* output, int threads);

}  // namespace hardy
