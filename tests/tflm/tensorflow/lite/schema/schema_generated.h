#pragma once

#include <cstdint>
#include <cstring>

namespace tflite {

struct Model;     // what a FlatBuffer has at its root: read by the interpreter alone
struct Operator;

enum BuiltinOperator : int32_t { BuiltinOperator_CUSTOM = 32 };  // the others are numbered in operators.h

// A FlatBuffer starts with how far away its root is, in 32 bits, little-endian as the host of the tests.
inline const Model* GetModel(const void* buffer) {
  uint32_t offset;
  std::memcpy(&offset, buffer, sizeof offset);
  return reinterpret_cast<const Model*>(static_cast<const uint8_t*>(buffer) + offset);
}

}  // namespace tflite
