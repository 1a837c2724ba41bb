// Reads an input as the model takes it, 8-bit integers, from standard input, and prints the class and its logit.
#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

#include MODEL_HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define OF_MODEL(what) JOIN(MODEL, what)

// Newer versions of TensorFlow Lite Micro have their names in tflite::micro, older ones in tflite.
namespace tflite::micro {}
using namespace tflite;
using namespace tflite::micro;

alignas(16) static uint8_t arena[OF_MODEL(_ARENA)];

int main() {
  InitializeTarget();
  MicroMutableOpResolver<OF_MODEL(_OPERATORS)> resolver;
  OF_MODEL(_ADD_OPERATORS)(resolver)
  MicroInterpreter interpreter(GetModel(MODEL), resolver, arena, sizeof arena);
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;

  int8_t* input = interpreter.input(0)->data.int8;
  if (std::fread(input, 1, OF_MODEL(_INPUT_NUMBERS), stdin) != OF_MODEL(_INPUT_NUMBERS)) return 2;
  if (interpreter.Invoke() != kTfLiteOk) return 3;

  const int8_t* output = interpreter.output(0)->data.int8;
  const int8_t* most = std::max_element(output, output + OF_MODEL(_OUTPUT_NUMBERS));
  std::printf("%d %g\n", static_cast<int>(most - output), (*most - OF_MODEL(_OUTPUT_ZERO)) * OF_MODEL(_OUTPUT_SCALE));
  return 0;
}
