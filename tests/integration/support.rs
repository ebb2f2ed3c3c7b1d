//! What several integration tests share.

pub mod process;
pub mod python;
pub mod run;
pub mod s3;
