#pragma once

#include <cstring>

#include "tensorflow/lite/micro/micro_op_resolver.h"
#include "tensorflow/lite/micro/operators.h"

namespace tflite::micro {

#define DECLARE(added, number, registered, parsed) \
  TFLMRegistration Register_##registered();        \
  TfLiteStatus Parse##parsed(const Operator*, BuiltinDataAllocator*, void**);
TFLM_OPERATORS(DECLARE)
#undef DECLARE

// Finds the operators that were added; refuses more than there is room for.
template <unsigned room>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
#define ADD(added, number, registered, parsed) \
  TfLiteStatus Add##added() { return Append(number, Register_##registered(), Parse##parsed); }
  TFLM_OPERATORS(ADD)
#undef ADD

  const TFLMRegistration* FindOp(BuiltinOperator op) const override {
    const unsigned place = Place(op);
    return place < count_ ? &registrations_[place] : nullptr;
  }

  const TFLMRegistration* FindOp(const char*) const override { return nullptr; }

  Parser GetOpDataParser(BuiltinOperator op) const override {
    const unsigned place = Place(op);
    return place < count_ ? parsers_[place] : nullptr;
  }

 private:
  unsigned Place(int32_t op) const {
    unsigned place = 0;
    while (place < count_ && registrations_[place].builtin_code != op) ++place;
    return place;
  }

  TfLiteStatus Append(int32_t op, const TFLMRegistration& registration, Parser parser) {
    if (count_ == room || Place(op) < count_) return kTfLiteError;
    registrations_[count_] = registration;
    registrations_[count_].builtin_code = op;
    parsers_[count_++] = parser;
    return kTfLiteOk;
  }

  TFLMRegistration registrations_[room];
  Parser parsers_[room];
  unsigned count_ = 0;
};

}  // namespace tflite::micro
