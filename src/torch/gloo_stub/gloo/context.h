// The few Gloo declarations that c10d's ProcessGroupGloo header needs to be read. The real types
// live inside libtorch_cpu.so; here they are handled through pointers only, so their layout must
// never be relied on: no data members, no virtual calls, no construction.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  // Closes the sockets to all peers, each under its own lock; exported by libtorch_cpu.so.
  void closeConnections();
};

namespace transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};

}  // namespace transport
}  // namespace gloo
