// Packed attention with AVX2.
#include "packed_attention.h"

#include <immintrin.h>

#include <cstring>

#define HARDY_LANES 8

namespace hardy {
namespace {
constexpr int kTile = 16;
#include "lanes.h"
#include "packed_attention_loops.h"
}  // namespace
const AttentionPath kAttentionAvx2 = {"avx2", attend};
}  // namespace hardy
