//! What several integration tests share.

pub mod s3;
