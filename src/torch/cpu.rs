//! What libtorch may use of this machine's CPU.

#![expect(unsafe_code, reason = "sets environment variables that libtorch reads")]

use std::num::NonZeroU16;

/// Kernels that libtorch keeps for matrix shapes it has seen, in each of its two caches.
const KERNELS_KEPT: &str = "8";

/// Bounds libtorch's caches of bfloat16 kernels, unless the user's environment says otherwise.
///
/// Packed rows have a new shape in each step, so a kernel is used again only within a step, but
/// each one kept holds a work buffer as large as its output. With the default of 1024 kernels a
/// rank grows by some 15 MB a step.
///
/// Call it first of all in `main`, before there is a second thread.
pub fn bound_kernel_caches() {
    for cache in ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"] {
        if std::env::var_os(cache).is_none() {
            // SAFETY: the caller has no other thread that could read the environment.
            unsafe { std::env::set_var(cache, KERNELS_KEPT) };
        }
    }
}

/// Sets how many threads one tensor operation may use, for the whole process. Ranks that share a
/// machine must share out its cores, or they all run slower.
pub fn set_threads(count: NonZeroU16) {
    tch::set_num_threads(i32::from(count.get()));
}

/// Whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16). Where it does not,
/// oneDNN still accepts bfloat16 but emulates it, slower than float32.
pub fn multiplies_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
