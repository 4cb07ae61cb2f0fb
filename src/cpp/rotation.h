// Rotation by Hadamard matrices, block after block; see src/hardy/ops/rotation.py, whose torch reference has the same
// bits.
#pragma once

#include <cstdint>
#include <string>

namespace hardy {

// Each row of x (rows, width) into output, which may be x: blocks of `size`, a power of two, then the powers of two
// that make up the rest of a row. An unknown path is std::invalid_argument.
void rotate(const std::string& path, const float* x, int64_t rows, int64_t width, int64_t size, float* output,
            int threads);

}  // namespace hardy
