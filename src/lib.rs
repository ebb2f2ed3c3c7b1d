//! Cohort continues the pre-training of ModernBERT encoders on text from many institutions.
//!
//! The modules in reading order; each may use only those before it (a test enforces it):
//!
//! - words: [`ids`], [`diagnosis`]
//! - pure decisions: [`corpus`] (what is read when), [`run`] (what happens next)
//! - edges: [`telemetry`], [`store`], [`wire`], [`torch`]
//! - work: [`collective`], [`model`], [`data`], [`prepare`], [`evaluate`], [`train`]
//! - compose: [`config`], [`preflight`]
//! - shells: [`coordinator`], [`worker`], [`supervisor`]
//! - entry: [`cli`]

pub mod cli;
pub mod collective;
pub mod config;
pub mod coordinator;
pub mod corpus;
pub mod data;
pub mod diagnosis;
pub mod evaluate;
pub mod ids;
pub mod model;
pub mod preflight;
pub mod prepare;
pub mod run;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod torch;
pub mod train;
pub mod wire;
pub mod worker;
