//! Compiles the C++ shim of `src/torch/shim/` against the libtorch that LIBTORCH names, tells the
//! linker where that libtorch is found at run time, and compiles the protocol (through protox, so
//! that no protoc is needed).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let libtorch = libtorch();
    compile_shim(&libtorch);
    set_run_paths(&libtorch);
    compile_protocol();
}

fn compile_protocol() {
    println!("cargo:rerun-if-changed=src/wire/run.proto");
    let files = protox::compile(["src/wire/run.proto"], ["src/wire"])
        .expect("the protocol's file is part of the source tree and well formed");
    tonic_prost_build::configure()
        .compile_fds(files)
        .expect("the protocol's code is written to OUT_DIR");
}

/// The folder that holds `include/` and `lib/` of libtorch.
fn libtorch() -> PathBuf {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let folder = env::var_os("LIBTORCH")
        .map(PathBuf::from)
        .unwrap_or_default();
    let library = folder.join("lib/libtorch_cpu.so");
    assert!(
        library.is_file(),
        "libtorch is missing ({} does not exist)\n  hint: run scripts/setup first",
        library.display()
    );
    folder
}

/// One static library of every `.cc` file of the shim. Always optimized: the optimizer's loop is
/// in it. Headers of libtorch are system headers, so that only our own lines warn.
fn compile_shim(libtorch: &Path) {
    let folder = Path::new("src/torch/shim");
    println!("cargo:rerun-if-changed={}", folder.display());
    println!("cargo:rerun-if-changed=src/torch/gloo_stub");
    let mut sources: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the shim's folder is part of the source tree")
        .map(|entry| entry.expect("the shim's folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cc"))
        .collect();
    sources.sort();

    let include = libtorch.join("include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).debug(false);
    for folder in [include.join("torch/csrc/api/include"), include] {
        build.flag("-isystem").flag(folder);
    }
    build
        .include("src/torch/gloo_stub")
        .define("USE_C10D_GLOO", None);
    // Contraction to fused multiply-add would make bits depend on the CPU model.
    for flag in [
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
    ] {
        build.flag(flag);
    }
    if build.get_compiler().is_like_gnu() {
        // at::parallel_for is a template over OpenMP. libtorch's own OpenMP runtime is GCC's; with
        // another compiler the shim's loops run on one thread.
        build.flag("-fopenmp");
        let shipped = libtorch.join("lib/libgomp.so.1");
        if shipped.is_file() {
            println!("cargo:rustc-link-arg={}", shipped.display());
        } else {
            println!("cargo:rustc-link-arg=-lgomp");
        }
    }
    build.files(sources).compile("cohort_shim");
}

/// Looks beside the executable first, so that a copied binary with its `lib/` works elsewhere.
fn set_run_paths(libtorch: &Path) {
    for path in ["$ORIGIN/lib", "$ORIGIN"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
    println!(
        "cargo:rustc-link-arg=-Wl,-rpath,{}",
        libtorch.join("lib").display()
    );
}
