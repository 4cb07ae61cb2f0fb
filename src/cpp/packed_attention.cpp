#include "packed_attention.h"

#include <algorithm>
#include <cmath>

#include "threads.h"

namespace hardy {
namespace {

constexpr int64_t kChunk = 1024;  // tokens of a row that are one piece of work

const AttentionPath& attention_path(const std::string& name) {
#if defined(__x86_64__) || defined(_M_X64)
  if (name == kAttentionAvx512.name) return kAttentionAvx512;
  if (name == kAttentionAvx2.name) return kAttentionAvx2;
#endif
  return kAttentionBase;
}

struct Piece {
  const AttentionSegment* segment;
  int64_t begin, end;
};

}  // namespace

void packed_attention(const std::string& path, const AttentionQuery& query,
                      const std::vector<AttentionSegment>& segments, float* output, int threads) {
  const AttentionPath& loops = attention_path(path);
  std::vector<Piece> pieces;
  for (const AttentionSegment& segment : segments)
    for (int64_t begin = segment.first; begin < segment.tokens; begin += kChunk)
      pieces.push_back({&segment, begin, std::min(begin + kChunk, segment.tokens)});
  const int64_t count = static_cast<int64_t>(pieces.size()), group = query.group, dim = query.dim;
  std::vector<float> partials(query.rows * count * group * (dim + 2));
  const auto partial = [&](int64_t item) {
    float* start = partials.data() + item * group * (dim + 2);
    return AttentionPartial{start, start + group, start + 2 * group};
  };
  parallel_for(query.rows * count, 1, threads, [&](int64_t first, int64_t last) {
    std::vector<float> workspace(attention_workspace(query));
    for (int64_t item = first; item < last; ++item) {
      const Piece& piece = pieces[item % count];
      loops.attend(*piece.segment, query, item / count, piece.begin, piece.end, partial(item), workspace.data());
    }
  });
  for (int64_t row = 0; row < query.rows; ++row)
    for (int64_t g = 0; g < group; ++g) {
      float largest = partial(row * count).largest[g];
      for (int64_t i = 1; i < count; ++i) largest = std::max(largest, partial(row * count + i).largest[g]);
      float* to = output + (row * group + g) * dim;
      std::fill(to, to + dim, 0.0f);
      float sum = 0.0f;
      for (int64_t i = 0; i < count; ++i) {
        const AttentionPartial part = partial(row * count + i);
        const float share = std::exp(part.largest[g] - largest);
        sum += share * part.sum[g];
        for (int64_t j = 0; j < dim; ++j) to[j] += share * part.mixed[g * dim + j];
      }
      for (int64_t j = 0; j < dim; ++j) to[j] /= sum;
    }
}

}  // namespace hardy
