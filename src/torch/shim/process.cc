// Ending the process while libtorch still works in it.

#include <cstdint>
#include <cstdlib>

extern "C" {

// Without atexit handlers and static destructors: those would take libtorch's tables away from
// threads that are inside an operation.
void cohort_process_leave(int32_t code) {
  std::_Exit(code);
}

}  // extern "C"
