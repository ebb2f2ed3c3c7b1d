//! What several integration tests share.

pub mod python;
pub mod s3;
