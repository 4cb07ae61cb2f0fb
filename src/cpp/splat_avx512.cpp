// Compositing with AVX-512.
#include "splat_path.h"

#include <immintrin.h>

#include <cstring>

#define HARDY_LANES 16

namespace hardy {
namespace {
#include "lanes.h"
#include "splat_tiles.h"
}  // namespace
const SplatPath kSplatAvx512 = {"avx512", forward, backward};
}  // namespace hardy
