//! Where a checkpoint is, across runs and stores: what operators type and branches remember.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::Step;
use crate::store::error::StoreError;
use crate::store::layout;

/// A checkpoint of any run. As text it is the URL or path of the checkpoint's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointAddress {
    /// The run's folder in its store.
    pub run_url: String,
    pub step: Step,
}

impl fmt::Display for CheckpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.run_url,
            layout::checkpoint_folder(self.step)
        )
    }
}

impl FromStr for CheckpointAddress {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parsed = text
            .trim_end_matches('/')
            .rsplit_once('/')
            .and_then(|(folder, step)| {
                let run_url = folder
                    .strip_suffix(layout::CHECKPOINTS_FOLDER)?
                    .strip_suffix('/')?;
                let step = layout::parse_step_folder(step)?;
                Some(Self {
                    run_url: run_url.to_owned(),
                    step,
                })
            });
        parsed.ok_or_else(|| {
            StoreError::invalid(
                format!("{text} is no checkpoint"),
                "name its folder, as RUN/checkpoints/step-00000100; `cohort checkpoints` lists \
                 them",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for run_url in ["/data/runs/trunk", "s3://bucket/runs/trunk"] {
            let address = CheckpointAddress {
                run_url: run_url.to_owned(),
                step: Step(120),
            };
            assert_eq!(
                address.to_string().parse::<CheckpointAddress>().unwrap(),
                address
            );
            assert_eq!(
                format!("{address}/").parse::<CheckpointAddress>().unwrap(),
                address
            );
        }
        for wrong in [
            "",
            "trunk",
            "/data/runs/trunk",
            "/data/runs/checkpoints/latest",
        ] {
            assert!(wrong.parse::<CheckpointAddress>().is_err(), "{wrong}");
        }
    }
}
