//! What a compute thread is at, for the threads that must not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::run::standing::{Activity, Beat};

const ACTIVITIES: [Activity; 7] = [
    Activity::Loading,
    Activity::Idle,
    Activity::Connecting,
    Activity::Collective,
    Activity::Computing,
    Activity::Data,
    Activity::Store,
];

/// Written by the compute thread, read by anybody.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    activity: AtomicU8,
    ticks: AtomicU64,
    own_seconds: AtomicU64,
}

/// Goes back to what was before.
#[derive(Debug)]
pub struct During {
    pulse: Pulse,
    before: u8,
}

impl Pulse {
    /// From now on, until something else is begun.
    pub fn begin(&self, activity: Activity) {
        self.0.activity.store(number(activity), Ordering::Relaxed);
        self.tick();
    }

    /// Until what is returned is dropped.
    pub fn during(&self, activity: Activity) -> During {
        let before = self.0.activity.swap(number(activity), Ordering::Relaxed);
        self.tick();
        During {
            pulse: self.clone(),
            before,
        }
    }

    /// Something got done.
    pub fn tick(&self) {
        self.0.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters the time that a step took outside collective operations.
    pub fn own_time(&self, seconds: f64) {
        let before = f64::from_bits(self.0.own_seconds.load(Ordering::Relaxed));
        let mean = if before > 0.0 {
            before + (seconds - before) / 8.0
        } else {
            seconds
        };
        self.0.own_seconds.store(mean.to_bits(), Ordering::Relaxed);
    }

    pub fn beat(&self) -> Beat {
        let activity = usize::from(self.0.activity.load(Ordering::Relaxed));
        Beat {
            activity: ACTIVITIES[activity],
            ticks: self.0.ticks.load(Ordering::Relaxed),
            own_seconds: f64::from_bits(self.0.own_seconds.load(Ordering::Relaxed)),
            uploads: 0,
        }
    }
}

impl Drop for During {
    fn drop(&mut self) {
        self.pulse.0.activity.store(self.before, Ordering::Relaxed);
        self.pulse.tick();
    }
}

fn number(activity: Activity) -> u8 {
    let place = ACTIVITIES.iter().position(|known| *known == activity);
    place.expect("the list has every activity") as u8
}
