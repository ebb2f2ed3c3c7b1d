//! Panics of foreign code that become errors, without a word on the terminal.
//!
//! The process has one hook that tells of panics. It is wrapped once, so that panics anywhere else
//! are told as before.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught and told as an error.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `run` gives, or nothing where it panics. What it was working on must not be used again.
pub fn unless_it_panics<T>(run: impl FnOnce() -> T) -> Option<T> {
    static WRAPPED: Once = Once::new();
    WRAPPED.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_CAUGHT.get() {
                tell(panic);
            }
        }));
    });
    let before = IS_CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn caught_panics_are_silent_and_others_are_told() {
        let told = Arc::new(AtomicU32::new(0));
        let (counter, own, others) = (
            Arc::clone(&told),
            thread::current().id(),
            panic::take_hook(),
        );
        panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == own {
                counter.fetch_add(1, Ordering::Relaxed);
            } else {
                others(panic);
            }
        }));
        assert_eq!(unless_it_panics(|| 7), Some(7));
        assert_eq!(unless_it_panics(|| panic!("damaged")), None::<u32>);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        assert!(catch_unwind(|| panic!("a bug")).is_err());
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
