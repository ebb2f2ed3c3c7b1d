// How the shim's functions report: a status and, when it is not Ok, a message in the caller's
// buffer. No C++ exception may leave an extern "C" function, so every body runs inside `guarded`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>

#include <c10/util/Exception.h>

// Kept equal to `Status` in src/torch/status.rs.
enum CohortStatus : int32_t {
  kCohortOk = 0,
  kCohortFailed = 1,
  kCohortTimedOut = 2,
  kCohortAborted = 3,
};

struct CohortMessage {
  char* text;
  size_t capacity;
};

namespace cohort {

inline void write_message(CohortMessage message, const char* text) noexcept {
  if (message.capacity == 0) {
    return;
  }
  const size_t length = std::min(std::strlen(text), message.capacity - 1);
  std::memcpy(message.text, text, length);
  message.text[length] = '\0';
}

template <typename Body>
int32_t guarded(CohortMessage message, Body body) noexcept {
  try {
    return body();
  } catch (const c10::Error& error) {
    write_message(message, error.what_without_backtrace());
  } catch (const std::exception& error) {
    write_message(message, error.what());
  } catch (...) {
    write_message(message, "an exception of an unknown type");
  }
  return kCohortFailed;
}

}  // namespace cohort
