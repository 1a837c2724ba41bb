#pragma once

#include <cstddef>
#include <cstdint>

#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite::micro {

struct TfLiteContext;
struct TfLiteNode;
class BuiltinDataAllocator;

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

struct TFLMRegistration {
  void* (*init)(TfLiteContext*, const char*, size_t);
  void (*free)(TfLiteContext*, void*);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  void (*reset)(TfLiteContext*, void*);
  int32_t builtin_code;
  const char* custom_name;
};

using Parser = TfLiteStatus (*)(const Operator*, BuiltinDataAllocator*, void**);

// The library calls these through the table of virtual functions, in this order.
class MicroOpResolver {
 public:
  virtual const TFLMRegistration* FindOp(BuiltinOperator op) const = 0;
  virtual const TFLMRegistration* FindOp(const char* op) const = 0;
  virtual Parser GetOpDataParser(BuiltinOperator op) const = 0;
  virtual ~MicroOpResolver() = default;
};

}  // namespace tflite::micro
