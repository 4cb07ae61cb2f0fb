// What Python sees of the compiled kernels, bound in files of their own. Tensors come through DLPack; shapes are checked
// here, before a kernel reads them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "tensor.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
using hardy::expect;
using hardy::expect_size;
using hardy::Tensor;

void bind_trit_product(nb::module_& module);
void bind_decode_step(nb::module_& module);
void bind_binary_conv(nb::module_& module);
void bind_fit_trits(nb::module_& module);
void bind_feedback(nb::module_& module);
void bind_splats(nb::module_& module);
void bind_packed_attention(nb::module_& module);
void bind_patchmatch(nb::module_& module);
