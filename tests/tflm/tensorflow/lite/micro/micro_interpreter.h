#pragma once

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/micro/micro_op_resolver.h"

namespace tflite::micro {

class MicroResourceVariables;
class MicroProfilerInterface;

// The start of a tensor: the example reads and writes its numbers, and nothing that comes behind them.
struct TfLiteTensor {
  struct {
    int32_t kind;
    void* parameters;
  } quantization;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  union {
    void* data;
    int8_t* int8;
  } data;
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& operators, uint8_t* arena, size_t bytes,
                   MicroResourceVariables* variables = nullptr, MicroProfilerInterface* profiler = nullptr,
                   bool preserve_all_tensors = false);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(size_t index);
  TfLiteTensor* output(size_t index);

 private:
  // The library alone knows what it keeps here; its constructor writes less than half of this.
  alignas(16) unsigned char kept_[1024];
};

}  // namespace tflite::micro
