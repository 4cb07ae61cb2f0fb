// Compositing with AVX2.
#include "splat_path.h"

#include <immintrin.h>

#include <cstring>

#define HARDY_LANES 8

namespace hardy {
namespace {
#include "lanes.h"
#include "splat_tiles.h"
}  // namespace
const SplatPath kSplatAvx2 = {"avx2", forward, backward};
}  // namespace hardy
