//! What libtorch may use of this machine's CPU.

use std::num::NonZeroU16;

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
