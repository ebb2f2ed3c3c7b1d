//! How a generation is given up from outside the compute thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::collective::AbortHandle;
use crate::ids::Generation;

/// Known to the compute thread, which enters its communicators, and to the shell, which ends them.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Every generation up to this one is over.
    through: Generation,
    current: Option<(Generation, AbortHandle)>,
}

impl Abort {
    /// Ends the communicator of a generation, also one that is yet to be entered.
    pub fn abort(&self, generation: Generation) {
        let mut state = self.lock();
        state.through = state.through.max(generation);
        if let Some((current, handle)) = &state.current
            && *current <= generation
        {
            handle.abort();
        }
    }

    /// Enters the communicator of a generation.
    pub fn enter(&self, generation: Generation, handle: AbortHandle) {
        let mut state = self.lock();
        if generation <= state.through {
            handle.abort();
        }
        state.current = Some((generation, handle));
    }

    pub fn is_over(&self, generation: Generation) -> bool {
        generation <= self.lock().through
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
