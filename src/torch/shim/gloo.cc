// libtorch's c10d Gloo engine behind a C interface: a key-value store for rendezvous, and a process
// group whose operations block until done, failed, aborted or out of time.

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "status.h"

namespace {

using Milliseconds = std::chrono::milliseconds;

// ProcessGroupGloo has no abort of its own. Closing the sockets is what abort needs of it: every
// peer that waits on this rank then fails at once.
class ClosableGloo final : public c10d::ProcessGroupGloo {
 public:
  using ProcessGroupGloo::ProcessGroupGloo;

  void close_connections() {
    for (const auto& context : contexts_) {
      context->closeConnections();
    }
  }
};

// Shared with callbacks of operations that may still be in flight when the waiter has given up.
struct Signal {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false;
};

}  // namespace

struct CohortStore {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

struct CohortGroup {
  c10::intrusive_ptr<c10d::Store> store;
  int world = 0;
  Milliseconds timeout{0};
  std::shared_ptr<Signal> signal = std::make_shared<Signal>();
  c10::intrusive_ptr<ClosableGloo> gloo;
};

struct CohortGroupOptions {
  CohortStore* store;
  const char* prefix;
  const char* host;
  int32_t rank;
  int32_t world;
  int64_t connect_timeout_ms;
  int64_t operation_timeout_ms;
};

namespace {

CohortStatus finish(CohortGroup& group, const c10::intrusive_ptr<c10d::Work>& work) {
  const auto signal = group.signal;
  const auto done = std::make_shared<bool>(false);
  work->getFuture()->addCallback([signal, done](c10::ivalue::Future&) {
    {
      const std::lock_guard<std::mutex> lock(signal->mutex);
      *done = true;
    }
    signal->changed.notify_all();
  });
  {
    std::unique_lock<std::mutex> lock(signal->mutex);
    signal->changed.wait_for(
        lock, group.timeout, [&] { return *done || signal->aborted; });
    if (signal->aborted) {
      return kCohortAborted;
    }
    if (!*done) {
      return kCohortTimedOut;
    }
  }
  work->wait();  // Throws what the operation failed with.
  return kCohortOk;
}

template <typename Start>
int32_t operate(CohortGroup* group, CohortMessage message, Start start) noexcept {
  return cohort::guarded(message, [&] {
    {
      const std::lock_guard<std::mutex> lock(group->signal->mutex);
      if (group->signal->aborted) {
        return kCohortAborted;
      }
    }
    return finish(*group, start(*group->gloo));
  });
}

}  // namespace

extern "C" {

// Serves a store on the listening socket `fd`, which the store owns from here on.
int32_t cohort_store_serve(
    const char* host, uint16_t port, int32_t fd, int64_t timeout_ms, CohortStore** out,
    CohortMessage message) {
  return cohort::guarded(message, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = true;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    options.masterListenFd = fd;
    *out = new CohortStore{c10::make_intrusive<c10d::TCPStore>(host, options)};
    return kCohortOk;
  });
}

int32_t cohort_store_connect(
    const char* host, uint16_t port, int64_t timeout_ms, CohortStore** out,
    CohortMessage message) {
  return cohort::guarded(message, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    *out = new CohortStore{c10::make_intrusive<c10d::TCPStore>(host, options)};
    return kCohortOk;
  });
}

void cohort_store_free(CohortStore* store) {
  delete store;
}

int32_t cohort_group_create(
    const CohortGroupOptions* options, CohortGroup** out, CohortMessage message) {
  return cohort::guarded(message, [&] {
    auto group = std::make_unique<CohortGroup>();
    group->store =
        c10::make_intrusive<c10d::PrefixStore>(options->prefix, options->store->store);
    group->world = options->world;
    group->timeout = Milliseconds(options->operation_timeout_ms);
    auto gloo_options =
        c10d::ProcessGroupGloo::Options::create(Milliseconds(options->connect_timeout_ms));
    gloo_options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(options->host)};
    gloo_options->threads = 1;
    group->gloo = c10::make_intrusive<ClosableGloo>(
        group->store, options->rank, options->world, gloo_options);
    group->gloo->setTimeout(group->timeout);
    *out = group.release();
    return kCohortOk;
  });
}

int32_t cohort_group_all_reduce_sum(
    CohortGroup* group, const at::Tensor* tensor, CohortMessage message) {
  return operate(group, message, [&](c10d::ProcessGroupGloo& gloo) {
    std::vector<at::Tensor> tensors = {*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::SUM;
    return gloo.allreduce(tensors, options);
  });
}

int32_t cohort_group_broadcast(
    CohortGroup* group, const at::Tensor* tensor, int32_t root, CohortMessage message) {
  return operate(group, message, [&](c10d::ProcessGroupGloo& gloo) {
    std::vector<at::Tensor> tensors = {*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.rootTensor = 0;
    return gloo.broadcast(tensors, options);
  });
}

int32_t cohort_group_barrier(CohortGroup* group, CohortMessage message) {
  return operate(group, message, [](c10d::ProcessGroupGloo& gloo) { return gloo.barrier(); });
}

// From any thread: wakes the operation in flight and closes the sockets to all peers.
void cohort_group_abort(CohortGroup* group) {
  {
    const std::lock_guard<std::mutex> lock(group->signal->mutex);
    group->signal->aborted = true;
  }
  group->signal->changed.notify_all();
  cohort::guarded({nullptr, 0}, [&] {
    group->gloo->close_connections();
    return kCohortOk;
  });
}

// Returns when every rank has called this, so that no rank closes a socket that a slower one still
// reads its last result from: Gloo resets connections on close, which drops what is unsent.
int32_t cohort_group_farewell(CohortGroup* group, CohortMessage message) {
  return cohort::guarded(message, [&] {
    if (group->store->add("cohort/farewells", 1) == group->world) {
      group->store->set("cohort/farewell", std::string("all"));
    }
    group->store->wait({"cohort/farewell"}, group->timeout);
    return kCohortOk;
  });
}

// Joins Gloo's threads: after an abort that can take as long as the operation's time limit.
void cohort_group_free(CohortGroup* group) {
  cohort::guarded({nullptr, 0}, [&] {
    delete group;
    return kCohortOk;
  });
}

}  // extern "C"
