// Rows (what follows Add, the number in TensorFlow Lite's schema, what follows Register_, what follows Parse) for the
// operators that the registry's networks are made of.
#define TFLM_OPERATORS(ROW)                                          \
  ROW(Add, 0, ADD, Add)                                              \
  ROW(AveragePool2D, 1, AVERAGE_POOL_2D, Pool)                       \
  ROW(Concatenation, 2, CONCATENATION, Concatenation)                \
  ROW(Conv2D, 3, CONV_2D, Conv2D)                                    \
  ROW(DepthwiseConv2D, 4, DEPTHWISE_CONV_2D, DepthwiseConv2D)        \
  ROW(Dequantize, 6, DEQUANTIZE, Dequantize)                         \
  ROW(FullyConnected, 9, FULLY_CONNECTED, FullyConnected)            \
  ROW(Logistic, 14, LOGISTIC, Logistic)                              \
  ROW(MaxPool2D, 17, MAX_POOL_2D, Pool)                              \
  ROW(Mul, 18, MUL, Mul)                                             \
  ROW(Relu, 19, RELU, Relu)                                          \
  ROW(Relu6, 21, RELU6, Relu6)                                       \
  ROW(Reshape, 22, RESHAPE, Reshape)                                 \
  ROW(Softmax, 25, SOFTMAX, Softmax)                                 \
  ROW(Tanh, 28, TANH, Tanh)                                          \
  ROW(Pad, 34, PAD, Pad)                                             \
  ROW(Gather, 36, GATHER, Gather)                                    \
  ROW(Transpose, 39, TRANSPOSE, Transpose)                           \
  ROW(Mean, 40, MEAN, Reducer)                                       \
  ROW(Sub, 41, SUB, Sub)                                             \
  ROW(Div, 42, DIV, Div)                                             \
  ROW(Squeeze, 43, SQUEEZE, Squeeze)                                 \
  ROW(StridedSlice, 45, STRIDED_SLICE, StridedSlice)                 \
  ROW(Exp, 47, EXP, Exp)                                             \
  ROW(Split, 49, SPLIT, Split)                                       \
  ROW(Maximum, 55, MAXIMUM, Maximum)                                 \
  ROW(Minimum, 57, MINIMUM, Minimum)                                 \
  ROW(Neg, 59, NEG, Neg)                                             \
  ROW(PadV2, 60, PADV2, PadV2)                                       \
  ROW(Slice, 65, SLICE, Slice)                                       \
  ROW(Sum, 74, SUM, Reducer)                                         \
  ROW(Sqrt, 75, SQRT, Sqrt)                                          \
  ROW(Rsqrt, 76, RSQRT, Rsqrt)                                       \
  ROW(Pack, 83, PACK, Pack)                                          \
  ROW(Unpack, 88, UNPACK, Unpack)                                    \
  ROW(Square, 92, SQUARE, Square)                                    \
  ROW(SquaredDifference, 99, SQUARED_DIFFERENCE, SquaredDifference)  \
  ROW(Abs, 101, ABS, Abs)                                            \
  ROW(Quantize, 114, QUANTIZE, Quantize)                             \
  ROW(HardSwish, 117, HARD_SWISH, HardSwish)                         \
  ROW(BatchMatMul, 126, BATCH_MATMUL, BatchMatMul)
