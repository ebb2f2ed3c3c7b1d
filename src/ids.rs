//! The words that every module shares, as newtypes, so that a step is never taken for a row.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Optimizer steps taken. `Step(0)` is the initial state; `Step(n)` is the state after n steps,
    /// and also names the step that led to it.
    Step, u64
}
number! {
    /// A row's place in the endless row sequence of one phase, from 0.
    RowIndex, u64
}
number! {
    /// A worker process's place in its generation, from 0. Rank 0 is the lead.
    Rank, u32
}
number! {
    /// One agreed membership of ranks with one communicator, from 1.
    Generation, u64
}
number! {
    /// One life of a coordinator, from 1. A higher epoch fences off every lower one.
    Epoch, u64
}
number! {
    /// An operator's command, unique within a run.
    CommandId, u64
}
number! {
    /// A source's place in the manifest, counted over all institutions in their order.
    SourceIndex, u32
}
