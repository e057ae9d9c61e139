// decode_device.h: where decode_bench runs, and the bandwidth that it holds against. A program links one of
// decode_device_cpu.cc and decode_device_cuda.cc.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "kernels/ops.h"

namespace guildhall {

class DecodeDevice {
 public:
  virtual ~DecodeDevice() = default;
  virtual std::string name() const = 0;
  virtual std::function<std::unique_ptr<Ops>()> ops_maker() const = 0;
  // Bytes per second of weights that the device could take at this moment, probed, and what the probe did.
  virtual double bandwidth() = 0;
  virtual const char* bandwidth_of() const = 0;  // "read"
};

std::unique_ptr<DecodeDevice> make_decode_device(int threads);
std::filesystem::path default_decode_model();

}  // namespace guildhall
