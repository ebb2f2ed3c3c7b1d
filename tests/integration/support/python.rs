//! The scripts that need a Python with torch and transformers, which `COHORT_PYTHON` names.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers of tests fail and print as tests do; a test may look for an optional tool"
)]

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "COHORT_PYTHON";

/// Whether there is such a Python; says so where there is none.
pub fn has_transformers() -> bool {
    let named = env::var(VARIABLE).is_ok();
    if !named {
        println!("skipped: {VARIABLE} names no Python with transformers");
    }
    named
}

/// Whether that Python has a module; says so where it has not.
pub fn has_module(name: &str) -> bool {
    let python = env::var(VARIABLE).ok();
    let import = |python: String| {
        let mut command = Command::new(python);
        let output = command.args(["-c", &format!("import {name}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let found = python.is_some_and(import);
    if !found {
        println!("skipped: {VARIABLE} names no Python with {name}");
    }
    found
}

/// Runs a script of the repository, which must find nothing wrong, and shows what it printed.
#[track_caller]
pub fn run_script<S: AsRef<OsStr>>(name: &str, arguments: &[S]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name);
    let output = Command::new(env::var(VARIABLE).unwrap())
        .arg(script)
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}{errors}");
    print!("{text}");
}
