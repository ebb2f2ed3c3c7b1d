//! Training: the optimizer, one step, the loop over steps, and the state that checkpoints hold.
//!
//! Knows neither the protocol nor the store's keys: records and snapshots leave through channels.

pub mod abort;
pub mod compute;
pub mod optimizer;
pub mod replica;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod step;
pub mod sums;
