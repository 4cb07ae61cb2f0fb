// The trit product with NEON as every 64-bit ARM processor has it: products of bytes widened to 16, then 32 bits.
#include "trit_product.h"

#include <arm_neon.h>

namespace hardy {
namespace {

#include "trit_product_neon.h"

struct Isa : Registers {
  static HARDY_INLINE Sums dot(Sums s, Bytes b, Quad q) {
    return each<Sums>([&](int i) {
      const int8x16_t codes = vreinterpretq_s8_u8(b.val[i]);
      const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(q));
      const int16x8_t high = vmull_high_s8(codes, q);
      return vpadalq_s16(s.val[i], vpaddq_s16(low, high));  // a pair of sums is at most 4 * 3 * 127
    });
  }
};

#include "trit_product_loops.h"

#include "decode_step_loops.h"
#include "rotation_loops.h"

}  // namespace

const Path kNeon{"neon", quantize, product, add_rms_norm, attend, gate, rotate};

}  // namespace hardy
