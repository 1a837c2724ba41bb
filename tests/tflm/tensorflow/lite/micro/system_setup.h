#pragma once

namespace tflite::micro {

inline void InitializeTarget() {}  // it does nothing on a host, and tflite-micro's library leaves it out

}  // namespace tflite::micro
