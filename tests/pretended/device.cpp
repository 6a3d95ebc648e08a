// A CUDA device for a PyTorch that has none: its memory and its arithmetic are the host's.
//
// Tensors on it are plain ones of PyTorch with CUDA's dispatch key, so autograd, autocast and
// forward-mode derivatives treat them as they treat a GPU's. Every operation runs the CPU's kernel
// on the same memory, after CUDA's rules about devices were checked; what would make the host wait
// for a GPU is told to a function of the test's.

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/_log_softmax_backward_data.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <new>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

using at::Tensor;
using Names = std::unordered_set<std::string>;

const at::Device DEVICE(at::kCUDA, 0);
const c10::DispatchKeySet HOST(c10::DispatchKey::CPU), THERE(c10::DispatchKey::CUDA);
const c10::Stream STREAM(c10::Stream::DEFAULT, DEVICE);

void (*told)(const char*) = nullptr;

void tell(const std::string& what) {
  if (told) told(what.c_str());
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  at::DeviceType type() const override { return at::kCUDA; }
  at::Device exchangeDevice(at::Device) const override { return DEVICE; }
  at::Device getDevice() const override { return DEVICE; }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  c10::Stream getStream(at::Device) const override { return STREAM; }
  c10::Stream getDefaultStream(at::Device) const override { return STREAM; }
  c10::Stream exchangeStream(c10::Stream) const override { return STREAM; }
  at::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool isStreamCapturing(const c10::Stream&) const { return false; }
};

// What PyTorch asks of a build with CUDA; methods that a version doesn't know aren't called by it.
struct Hooks final : at::CUDAHooksInterface {
  void init() const {}
  bool hasCUDA() const { return true; }
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const { return true; }
  at::DeviceIndex deviceCount() const { return 1; }
  at::DeviceIndex getCurrentDevice() const { return 0; }
};
static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));

// The same memory under another device's name; it lives as long as either.
at::DataPtr renamed(const at::Storage& storage, at::Device device) {
  auto forget = [](void* owner) { delete static_cast<at::Storage*>(owner); };
  return {storage.mutable_data(), new at::Storage(storage), forget, device};
}

Tensor around(const Tensor& like, at::Storage storage, c10::DispatchKeySet keys) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return made;
}

Tensor moved(const Tensor& x, at::Device device, c10::DispatchKeySet keys) {
  at::Storage storage(
      at::Storage::use_byte_size_t(), x.storage().nbytes(), renamed(x.storage(), device),
      c10::GetCPUAllocator(), true);
  return around(x, std::move(storage), keys);
}

Tensor on_host(const Tensor& x) {
  return x.is_cuda() ? moved(x, at::kCPU, HOST) : x;
}

Tensor on_device(const Tensor& x) { return moved(x, DEVICE, THERE); }

// It keeps the keys: what is made in inference mode of a tensor from outside is one from outside.
Tensor view_of(const Tensor& x, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, at::Storage(x.storage()), x.key_set(), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return made;
}

// What became of a tensor that an operation was allowed to change.
void follow(const Tensor& x, const Tensor& host) {
  auto* storage = x.storage().unsafeGetStorageImpl();
  if (storage->data() != host.storage().data()) {
    storage->set_data_ptr_noswap(renamed(host.storage(), DEVICE));
    storage->set_nbytes(host.storage().nbytes());
  }
  if (x.sizes() != host.sizes() || x.strides() != host.strides()) {
    x.unsafeGetTensorImpl()->set_sizes_and_strides(
        host.sizes(), host.strides(), host.storage_offset());
  }
}

const Names WAITS{
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::equal",
    "aten::repeat_interleave"};
const Names INDEXED{"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};
const Names TAKES_NUMBERS{"aten::where", "aten::fill_", "aten::masked_fill_", "aten::masked_fill"};

// CUDA's rule: a tensor of the host's is taken as a number, as an index, or not at all.
bool taken(const c10::OperatorHandle& op, const Tensor& stranger, bool first) {
  const auto& name = op.schema().name();
  if (name.rfind("aten::_foreach", 0) == 0 || name.rfind("aten::_fused", 0) == 0) return true;
  if (INDEXED.count(name)) return !first;
  return stranger.dim() == 0 && (TAKES_NUMBERS.count(name) || op.hasTag(at::Tag::pointwise));
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const auto start = stack->size() - schema.arguments().size();
  std::vector<Tensor> given, hosts;
  auto enter = [&](const Tensor& x, bool first) -> Tensor {
    if (!x.defined()) return x;
    if (!x.is_cuda()) {
      TORCH_CHECK(
          taken(op, x, first), "Expected all tensors to be on the same device, but ", name,
          " is given one on cuda:0 and one on the CPU, ", x.sizes());
      return x;
    }
    for (size_t i = 0; i < given.size(); ++i)
      if (given[i].is_same(x)) return hosts[i];
    given.push_back(x);
    hosts.push_back(on_host(x));
    return hosts.back();
  };
  const bool put = name != "aten::index";  // which asks for nonzero itself
  if (WAITS.count(name)) tell(name.substr(6));
  for (size_t i = start; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = enter(value.toTensor(), i == start);
    } else if (value.isTensorList()) {
      c10::List<Tensor> entered;
      for (const Tensor& x : value.toTensorVector()) entered.push_back(enter(x, false));
      value = entered;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> entered;
      for (const std::optional<Tensor>& x : value.toOptionalTensorVector()) {
        if (x && x->defined() && (!x->is_cuda() || (put && x->scalar_type() == at::kBool)))
          tell("index");
        entered.push_back(x ? std::optional<Tensor>(enter(*x, false)) : x);
      }
      value = entered;
    } else if (value.isDevice()) {
      value = at::Device(at::kCPU);
    } else if (value.isGenerator()) {
      TORCH_CHECK(
          value.toGenerator().device().is_cuda(),
          "Expected a 'cuda' device type for generator but found 'cpu'");
    }
  }
  {
    at::AutoDispatchBelowAutograd guard;
    op.callBoxed(stack);
  }
  for (size_t i = 0; i < given.size(); ++i)
    if (schema.is_mutable()) follow(given[i], hosts[i]);
  auto leave = [&](const Tensor& x) -> Tensor {
    if (!x.defined() || x.is_cuda()) return x;
    for (size_t i = 0; i < hosts.size(); ++i) {
      if (hosts[i].is_same(x)) return given[i];
      if (hosts[i].storage().is_alias_of(x.storage())) return view_of(given[i], x);
    }
    return on_device(x);
  };
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = leave(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> left;
      for (const Tensor& x : value.toTensorVector()) left.push_back(leave(x));
      value = left;
    }
  }
}

// Pinned memory is known by who frees it.
void unpin(void* owner) { delete static_cast<at::Storage*>(owner); }

Tensor pin(const Tensor& x) {
  auto host = x.clone();
  at::DataPtr data(host.storage().mutable_data(), new at::Storage(host.storage()), &unpin, at::kCPU);
  at::Storage storage(
      at::Storage::use_byte_size_t(), host.storage().nbytes(), std::move(data),
      c10::GetCPUAllocator(), true);
  return around(host, std::move(storage), HOST);
}

bool is_pinned(const Tensor& x) { return x.storage().data_ptr().get_deleter() == &unpin; }

Tensor& copy(Tensor& self, const Tensor& source, bool non_blocking) {
  if (!self.is_cuda()) tell("to the host");
  // a copy from pageable memory waits for the stream, whatever it was asked
  if (!source.is_cuda() && !(non_blocking && is_pinned(source))) tell("from the host");
  on_host(self).copy_(on_host(source));
  return self;
}

Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  auto options = at::TensorOptions().device(at::kCPU).dtype(dtype);
  return on_device(at::empty(size, options.memory_format(format)));
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return on_device(at::empty_strided(size, stride, at::TensorOptions().dtype(dtype)));
}

// Forward-mode derivatives of what doesn't move; marked, so that nobody computes with them.
Tensor zeros(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return moved(
      at::zeros(size, at::TensorOptions().dtype(dtype)), DEVICE,
      THERE | c10::DispatchKeySet(c10::DispatchKey::ZeroTensor));
}

Tensor& set_view(
    Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size,
    at::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (stride.empty()) {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride, offset);
  }
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source) {
  auto length = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_view(self, std::move(source), 0, {length}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_view(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// The softmax of a GPU takes halves and gives floats, which the CPU's doesn't.
Tensor softmax(const Tensor& x, int64_t dim, bool to_float) {
  auto entered = to_float ? x.to(at::kFloat) : x;
  auto out = at::empty_like(entered);
  return at::_softmax_out(out, entered, dim, false);
}

Tensor log_softmax(const Tensor& x, int64_t dim, bool to_float) {
  auto entered = to_float ? x.to(at::kFloat) : x;
  auto out = at::empty_like(entered);
  return at::_log_softmax_out(out, entered, dim, false);
}

Tensor softmax_backward(const Tensor& grad, const Tensor& y, int64_t dim, at::ScalarType dtype) {
  auto out = at::empty_like(grad);
  return at::_softmax_backward_data_out(out, grad, y, dim, grad.scalar_type()).to(dtype);
}

Tensor log_softmax_backward(const Tensor& grad, const Tensor& y, int64_t dim, at::ScalarType dtype) {
  auto out = at::empty_like(grad);
  return at::_log_softmax_backward_data_out(out, grad, y, dim, grad.scalar_type()).to(dtype);
}

}  // namespace

extern "C" void tell_to(void (*function)(const char*)) { told = function; }

// PyTorch looks for the hooks of a build with CUDA once, perhaps long before this library is loaded:
// the object that it found instead is made into another of the same size, and back.
extern "C" void appear(bool there) {
  auto* hooks = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  if (there) new (hooks) Hooks();
  else new (hooks) at::CUDAHooksInterface();
}

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

TORCH_LIBRARY(pretended, m) {
  m.def("pin(Tensor x) -> Tensor", pin);
  m.def("is_pinned(Tensor x) -> bool", is_pinned);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("copy_", copy);
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_efficientzerotensor", zeros);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_view);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("_softmax", softmax);
  m.impl("_softmax_backward_data", softmax_backward);
  m.impl("_log_softmax", log_softmax);
  m.impl("_log_softmax_backward_data", log_softmax_backward);
  // made of parts that PyTorch chooses by device
  for (auto name : {"convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run>());
}
