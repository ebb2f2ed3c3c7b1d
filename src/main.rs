//! The `cohort` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    cohort::cli::main()
}
