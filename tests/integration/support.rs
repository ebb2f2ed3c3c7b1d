//! What several integration tests share.

pub mod process;
pub mod proxy;
pub mod python;
pub mod run;
pub mod s3;
