//! What happens next: the schedule, the progress through it, the ledger, and the coordinator's
//! state machine. Pure: no I/O, no clock, no logs; time and events are arguments.

pub mod command;
pub mod event;
pub mod goodput;
pub mod ledger;
pub mod progress;
pub mod schedule;
pub mod spike;
pub mod standing;
pub mod state;
