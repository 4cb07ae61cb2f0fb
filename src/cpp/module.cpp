// hardy._kernels: what Python sees of the compiled kernels.
#include "bindings.h"

NB_MODULE(_kernels, module) {
  bind_trit_product(module);
  bind_decode_step(module);
  bind_binary_conv(module);
  bind_fit_trits(module);
  bind_feedback(module);
  bind_splats(module);
  bind_packed_attention(module);
  bind_patchmatch(module);
}
