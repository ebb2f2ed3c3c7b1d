// StableAdamW over one contiguous float32 tensor on the CPU, in two passes over memory: the moments
// and the root mean square of the normalized gradient, then the parameter. Tensor operations would
// take a dozen passes and several temporaries of the tensor's size.
//
// Bits depend on neither the number of threads nor the CPU model: chunks have a fixed size, their
// sums are added in order, and the compiler may not contract multiply-add (see build.rs).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "status.h"

// Kept equal to `Coefficients` in src/torch/stable_adamw.rs.
struct CohortCoefficients {
  double gradient_share;  // 1 - debiased beta1
  double square_decay;    // debiased beta2
  double epsilon;
  double lr;
  double decay_per_lr;
};

#if defined(__x86_64__)
#define COHORT_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define COHORT_WIDE
#endif

namespace {

constexpr int64_t kChunk = 1 << 15;
constexpr int64_t kBlock = 256;
constexpr int kLanes = 8;

struct Moments {
  float gradient_share;
  float square_decay;
  float square_share;
  float epsilon_squared;
};

double sum_lanes(const double* lanes) {
  double sum = 0.0;
  for (int lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  return sum;
}

COHORT_WIDE void add_to_lanes(const float* values, int64_t count, double* lanes) {
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(values[at + lane]);
    }
  }
  for (; at < count; ++at) {
    lanes[0] += static_cast<double>(values[at]);
  }
}

COHORT_WIDE double squares(const float* gradient, int64_t count) {
  double lanes[kLanes] = {};
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = gradient[at + lane];
      lanes[lane] += value * value;
    }
  }
  for (; at < count; ++at) {
    lanes[0] += static_cast<double>(gradient[at]) * static_cast<double>(gradient[at]);
  }
  return sum_lanes(lanes);
}

// m += share * (g - m); v = decay * v + (1 - decay) * g^2; ratios = g^2 / max(v, epsilon^2).
COHORT_WIDE void update_moments(
    const float* __restrict gradient, float* __restrict average, float* __restrict square,
    float* __restrict ratios, int64_t count, const Moments& moments) {
  const float gradient_share = moments.gradient_share;
  const float square_decay = moments.square_decay;
  const float square_share = moments.square_share;
  const float floor = moments.epsilon_squared;
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i];
    const float g_squared = g * g;
    const float v = square_decay * square[i] + square_share * g_squared;
    average[i] += gradient_share * (g - average[i]);
    square[i] = v;
    ratios[i] = g_squared / (v > floor ? v : floor);
  }
}

// p -= lr * (m / (sqrt(v) + epsilon) + decay * p), which is the recipe's p *= 1 - lr * decay before
// p -= lr * m / (...), without rounding 1 - lr * decay (1 - 1e-7 is barely a float32).
COHORT_WIDE void update_parameter(
    float* __restrict parameter, const float* __restrict average, const float* __restrict square,
    int64_t count, float epsilon, float lr, float decay_per_lr) {
  for (int64_t i = 0; i < count; ++i) {
    const float p = parameter[i];
    const float direction = average[i] / (std::sqrt(square[i]) + epsilon) + decay_per_lr * p;
    parameter[i] = p - lr * direction;
  }
}

// Calls body(chunk index, first element, element count) for all chunks, on libtorch's threads.
template <typename Body>
void for_chunks(int64_t count, const Body& body) {
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  at::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
    for (int64_t chunk = from; chunk < to; ++chunk) {
      const int64_t first = chunk * kChunk;
      body(chunk, first, std::min(kChunk, count - first));
    }
  });
}

template <typename Body>
double sum_chunks(int64_t count, const Body& body) {
  std::vector<double> partial((count + kChunk - 1) / kChunk, 0.0);
  for_chunks(count, [&](int64_t chunk, int64_t first, int64_t size) {
    partial[chunk] = body(first, size);
  });
  double sum = 0.0;
  for (const double part : partial) {
    sum += part;
  }
  return sum;
}

void check_layout(const at::Tensor& tensor, int64_t count) {
  TORCH_CHECK(
      tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous() &&
          tensor.numel() == count,
      "a contiguous float32 tensor of ", count, " elements on the CPU was expected");
}

}  // namespace

extern "C" {

int32_t cohort_sum_of_squares(const at::Tensor* tensor, double* sum, CohortMessage message) {
  return cohort::guarded(message, [&] {
    const int64_t count = tensor->numel();
    check_layout(*tensor, count);
    const float* values = tensor->const_data_ptr<float>();
    *sum = sum_chunks(
        count, [&](int64_t first, int64_t size) { return squares(values + first, size); });
    return kCohortOk;
  });
}

int32_t cohort_stable_adamw(
    const at::Tensor* parameter, const at::Tensor* gradient, const at::Tensor* exp_avg,
    const at::Tensor* exp_avg_sq, const CohortCoefficients* coefficients, double* rms,
    CohortMessage message) {
  return cohort::guarded(message, [&] {
    const int64_t count = parameter->numel();
    for (const at::Tensor* tensor : {parameter, gradient, exp_avg, exp_avg_sq}) {
      check_layout(*tensor, count);
    }
    *rms = 0.0;
    if (count == 0) {
      return kCohortOk;
    }
    const CohortCoefficients& c = *coefficients;
    const Moments moments = {
        static_cast<float>(c.gradient_share), static_cast<float>(c.square_decay),
        static_cast<float>(1.0 - c.square_decay), static_cast<float>(c.epsilon * c.epsilon)};
    const float* g = gradient->const_data_ptr<float>();
    float* p = parameter->mutable_data_ptr<float>();
    float* m = exp_avg->mutable_data_ptr<float>();
    float* v = exp_avg_sq->mutable_data_ptr<float>();

    const double sum = sum_chunks(count, [&](int64_t first, int64_t size) {
      double lanes[kLanes] = {};
      float ratios[kBlock];
      for (int64_t done = 0; done < size; done += kBlock) {
        const int64_t at = first + done;
        const int64_t block = std::min(kBlock, size - done);
        update_moments(g + at, m + at, v + at, ratios, block, moments);
        add_to_lanes(ratios, block, lanes);
      }
      return sum_lanes(lanes);
    });
    *rms = std::sqrt(sum / static_cast<double>(count));

    const float lr = static_cast<float>(c.lr / std::max(1.0, *rms));
    const float epsilon = static_cast<float>(c.epsilon);
    const float decay_per_lr = static_cast<float>(c.decay_per_lr);
    for_chunks(count, [&](int64_t, int64_t first, int64_t size) {
      update_parameter(p + first, m + first, v + first, size, epsilon, lr, decay_per_lr);
    });
    return kCohortOk;
  });
}

}  // extern "C"
