//! The C++ shim over libtorch and everything libtorch that tch lacks.
//!
//! Each file here wraps one file of `shim/` in safe types: [`gloo`] the collective engine for CPU
//! ranks, [`stable_adamw`] the optimizer's inner loop, [`cpu`] threads and instruction sets,
//! [`process`] leaving it, [`status`] how shim functions report.
//!
//! It must never let a C++ exception unwind into Rust, nor hand out a raw pointer. The files of
//! this folder are the only ones, with the NCCL module, where `unsafe` may call foreign code.

pub mod cpu;
pub mod gloo;
pub mod process;
pub mod stable_adamw;
pub mod status;
