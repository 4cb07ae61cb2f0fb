// The trit product with NEON's dot products of bytes (ARMv8.2 DotProd).
#include "trit_product.h"

#include <arm_neon.h>

namespace hardy {
namespace {

#include "trit_product_neon.h"

struct Isa : Registers {
  static HARDY_INLINE Sums dot(Sums s, Bytes b, Quad q) {
    return each<Sums>([&](int i) { return vdotq_s32(s.val[i], vreinterpretq_s8_u8(b.val[i]), q); });
  }
};

#include "trit_product_loops.h"

#include "decode_step_loops.h"
#include "rotation_loops.h"

}  // namespace

const Path kNeonDot{"neon-dot", quantize, product, add_rms_norm, attend, gate, rotate};

}  // namespace hardy
