// Packed attention with what every processor of the kind has: SSE2 on x86-64, NEON on ARM.
#include "packed_attention.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__SSE2__) || defined(__ARM_NEON)
#define HARDY_LANES 4
#else
#define HARDY_LANES 1
#endif

namespace hardy {
namespace {
constexpr int kTile = 16;
#include "lanes.h"
#include "packed_attention_loops.h"
}  // namespace
const AttentionPath kAttentionBase = {"scalar", attend};
}  // namespace hardy
