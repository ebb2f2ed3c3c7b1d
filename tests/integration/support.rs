//! What several integration tests share.

use std::io::Write;

pub mod emulator;
pub mod faulty;
pub mod google;
pub mod http;
pub mod namespace;
pub mod process;
pub mod proxy;
pub mod python;
pub mod run;
pub mod s3;
pub mod unconditional;

/// Says that a test has not looked, past the harness, which hides what passing tests print.
pub fn skipped(why: &str) {
    drop(writeln!(std::io::stderr(), "skipped: {why}"));
}
