// Compositing with what every processor of the kind has: SSE2 on x86-64, NEON on ARM.
#include "splat_path.h"

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
#include "lanes.h"
#include "splat_tiles.h"
}  // namespace
const SplatPath kSplatBase = {"scalar", forward, backward};
}  // namespace hardy
