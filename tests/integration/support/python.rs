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
use std::process::{Command, Output};

const VARIABLE: &str = "COHORT_PYTHON";

/// Whether there is such a Python; says so where there is none.
pub fn has_transformers() -> bool {
    let named = env::var(VARIABLE).is_ok();
    if !named {
        crate::support::skipped(&format!("{VARIABLE} names no Python with transformers"));
    }
    named
}

/// Whether there is such a Python, and whether it has a package; says so where not.
pub fn has(package: &str) -> bool {
    let import = format!("import {package}");
    let found = env::var(VARIABLE)
        .ok()
        .and_then(|python| Command::new(python).args(["-c", &import]).output().ok());
    let found = found.is_some_and(|output| output.status.success());
    if !found {
        crate::support::skipped(&format!("{VARIABLE} names no Python with {package}"));
    }
    found
}

/// Runs a script of the repository, which must find nothing wrong, and shows what it printed.
#[track_caller]
pub fn run_script<S: AsRef<OsStr>>(name: &str, arguments: &[S]) {
    let output = script(name, arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}{errors}");
    print!("{text}");
}

/// What a script of the repository says that must find something wrong.
#[track_caller]
pub fn script_error<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> String {
    let output = script(name, arguments);
    assert!(!output.status.success(), "{name} finds nothing wrong");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn script<S: AsRef<OsStr>>(name: &str, arguments: &[S]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name);
    Command::new(env::var(VARIABLE).unwrap())
        .arg(script)
        .args(arguments)
        .output()
        .unwrap()
}
