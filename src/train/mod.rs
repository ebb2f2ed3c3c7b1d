//! To be written.

pub mod optimizer;
