// hardy._kernels: what Python sees of the compiled kernels. Tensors come as addresses, checked on the Python side.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "huge_pages.h"
#include "trit_product.h"

namespace nb = nanobind;

namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void bind_trit_product(nb::module_& module) {
  module.def("trit_product_paths", &hardy::trit_product_paths);
  module.def(
      "trit_product",
      [](const std::string& path, uintptr_t x, int64_t tokens, uintptr_t codes, uintptr_t scales, int64_t rows,
         int64_t width, int64_t group_size, int planes, uintptr_t output, int threads) {
        const hardy::TritMatrix matrix{at<const uint8_t>(codes), at<const uint16_t>(scales), rows, width, group_size,
                                       planes};
        hardy::trit_product(path, matrix, at<const float>(x), tokens, at<float>(output), threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

NB_MODULE(_kernels, module) {
  bind_trit_product(module);
  module.def("advise_huge_pages", [](uintptr_t address, size_t bytes) { hardy::advise_huge_pages(address, bytes); });
}
