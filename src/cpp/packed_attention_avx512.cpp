// Packed attention with AVX-512.
#include "packed_attention.h"

#include <immintrin.h>

#include <cstring>

#define HARDY_LANES 16

namespace hardy {
namespace {
constexpr int kTile = 16;
#include "lanes.h"
#include "packed_attention_loops.h"
}  // namespace
const AttentionPath kAttentionAvx512 = {"avx512", attend};
}  // namespace hardy
