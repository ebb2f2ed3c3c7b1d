//! Training runs from end to end, with the processes, sockets and stores that an operator has.
//!
//! Bits are compared as the text of `metrics.jsonl`, of which no line may be lost either, and as
//! the bytes of the last checkpoint. Dropout is on throughout.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

mod bits;
mod branch;
mod by_hand;
mod chaos;
mod damage;
mod decay;
mod drill;
mod inspect;
mod leaving;
mod operate;
mod outage;
mod partition;
mod recovery;
mod refusals;
mod resume;
mod s3;
mod spikes;
mod start;
mod withdraw;
