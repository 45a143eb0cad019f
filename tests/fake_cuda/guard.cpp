// What PyTorch lacks for fake CUDA tensors on a machine without a GPU. Running a graph backwards, autograd asks the hooks
// of the accelerator whether it is there, and the guard of the device for its streams. These answer: there is one
// device, with one stream, and nothing to be done for it. Real tensors on it are impossible all the same.
#include <new>

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using c10::Device, c10::DeviceIndex, c10::Stream;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {
  Device getDevice() const override { return {c10::kCUDA, 0}; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, getDevice()); }
  Stream exchangeStream(Stream stream) const noexcept override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  long versionCuDNN() const override { return 0; }  // a CUDA build asks before it chooses a kernel of attention
  long versionRuntimeCuDNN() const override { return 0; }
};

}  // namespace

extern "C" void pretend_that_there_is_a_gpu() {
  static const Guard guard;
  c10::impl::DeviceGuardImplRegistrar(c10::kCUDA, &guard);
  // Importing torch has made the hooks already, from a class without data: ours takes its place.
  static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks;
}
