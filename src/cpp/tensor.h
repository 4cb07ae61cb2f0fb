// Tensors as arguments of functions that Python calls: dtype, device and order are checked where they come in, shapes by
// `expect`. None of them is converted or copied.
//
// They come through DLPack. Where the type of the argument has DLPack's exchange interface for C
// (`__dlpack_c_exchange_api__`; torch.Tensor since torch 2.10), a tensor costs about 20 nanoseconds; else it is an
// nb::ndarray, whose call of `__dlpack__` costs two microseconds, which a small product would notice.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <initializer_list>
#include <string>

namespace hardy {

// An element of float16, which C++17 does not know.
struct Half {
  uint16_t bits;
};

// A C-contiguous tensor on the CPU, for as long as the call lasts. `T` is const for what is only read.
template <class T>
struct Tensor {
  T* data = nullptr;
  int ndim = 0;
  const int64_t* shape = nullptr;
  nanobind::ndarray<> owner;  // none where the caller's own tensor is looked at

  int64_t size() const {
    int64_t product = 1;
    for (int i = 0; i < ndim; ++i) product *= shape[i];
    return product;
  }
};

inline std::string shown(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

// ValueError unless the tensor has this shape; -1 stands for any size. The data, for short.
template <class T>
T* expect(const char* name, const Tensor<T>& tensor, std::initializer_list<int64_t> shape) {
  const bool fits = tensor.ndim == static_cast<int>(shape.size()) &&
                    std::equal(shape.begin(), shape.end(), tensor.shape,
                               [](int64_t wanted, int64_t given) { return wanted == -1 || wanted == given; });
  if (!fits) {
    const std::string wanted = shown(shape.begin(), static_cast<int>(shape.size()));
    throw nanobind::value_error(
        (std::string(name) + " must have the shape " + wanted + ", got " + shown(tensor.shape, tensor.ndim)).c_str());
  }
  return tensor.data;
}

// ValueError unless the tensor has so many elements, in whatever shape. The data, for short.
template <class T>
T* expect_size(const char* name, const Tensor<T>& tensor, int64_t size) {
  if (tensor.size() != size)
    throw nanobind::value_error((std::string(name) + " must hold " + std::to_string(size) + " elements, got " +
                                 std::to_string(tensor.size()))
                                    .c_str());
  return tensor.data;
}

// The part that is needed of DLPack's DLPackExchangeAPI, version 1 (https://dmlc.github.io/dlpack).
struct Exchange {
  uint32_t major, minor;
  void *previous, *allocator, *managed_from_object, *managed_to_object;
  int (*tensor_from_object)(void* object, nanobind::dlpack::dltensor* out);  // 0 if it worked
};

// The exchange interface of a type of objects; null where it has none. The last type asked for is remembered.
inline const Exchange* exchange_of(PyTypeObject* type) {
  static PyTypeObject* last = nullptr;
  static const Exchange* found = nullptr;
  if (type == last) return found;
  const Exchange* exchange = nullptr;
  if (PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__")) {
    exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
    if (exchange && (exchange->major != 1 || !exchange->tensor_from_object)) exchange = nullptr;
  }
  PyErr_Clear();
  Py_INCREF(type);  // or another type could come to stand at its address
  Py_XDECREF(last);
  last = type;
  return found = exchange;
}

inline bool is_contiguous(const nanobind::dlpack::dltensor& tensor) {
  int64_t step = 1;
  bool contiguous = true, empty = false;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    contiguous &= !tensor.strides || tensor.shape[i] == 1 || tensor.strides[i] == step;
    empty |= tensor.shape[i] == 0;
    step *= tensor.shape[i];
  }
  return contiguous || empty;
}

}  // namespace hardy

namespace nanobind::detail {

template <>
struct dtype_traits<hardy::Half> {
  static constexpr dlpack::dtype value{static_cast<uint8_t>(dlpack::dtype_code::Float), 16, 1};
  static constexpr auto name = const_name("float16");
};

template <class T>
struct type_caster<hardy::Tensor<T>> {
  using Array = ndarray<T, c_contig, device::cpu>;
  NB_TYPE_CASTER(hardy::Tensor<T>, make_caster<Array>::Name)

  bool from_python(handle source, uint32_t, cleanup_list* cleanup) noexcept {
    if (const hardy::Exchange* exchange = hardy::exchange_of(Py_TYPE(source.ptr()))) {
      dlpack::dltensor tensor;
      if (exchange->tensor_from_object(source.ptr(), &tensor) != 0) {
        PyErr_Clear();
        return false;
      }
      if (tensor.dtype != dtype<std::remove_const_t<T>>() || tensor.device.device_type != device::cpu::value ||
          !hardy::is_contiguous(tensor))
        return false;
      set(tensor.data, tensor.byte_offset, tensor.ndim, tensor.shape);
      return true;
    }
    make_caster<Array> caster;
    if (!caster.from_python(source, 0, cleanup)) return false;  // without the flag that would allow a copy
    set(const_cast<std::remove_const_t<T>*>(caster.value.data()), 0, static_cast<int>(caster.value.ndim()),
        caster.value.shape_ptr());
    value.owner = ndarray<>(caster.value.handle());
    return true;
  }

 private:
  void set(void* data, uint64_t offset, int ndim, const int64_t* shape) {
    value.data = reinterpret_cast<T*>(static_cast<char*>(data) + offset);
    value.ndim = ndim;
    value.shape = shape;
  }
};

}  // namespace nanobind::detail
