//! The checkpoints that an institution's text has not touched, and which of them to go on from.

use anyhow::Result;

use crate::cli::ledger::lineage::{Content, Lineage, Verdict, Witness};
use crate::run::schedule::PhaseKind;
use crate::store::error::CheckpointError;
use crate::store::manifest::Reason;

/// A checkpoint that could be read.
pub(super) type Read<'a> = (&'a Witness, &'a Content);

/// The checkpoints without an institution's text that are whole.
#[derive(Default)]
pub(super) struct Clean<'a> {
    pub(super) newest: Option<Read<'a>>,
    /// The newest that a run can go on from.
    pub(super) start: Option<Read<'a>>,
    /// Newer ones that are damaged, with the reason.
    pub(super) damaged: Vec<String>,
}

impl<'a> Clean<'a> {
    /// Walks from the newest down to the first that verifies, and further where that one stands
    /// inside a decay: the learning rate of the rest depends on where the decay began.
    pub(super) async fn find(lineage: &'a Lineage, institution: &str) -> Result<Self> {
        let mut candidates: Vec<Read<'a>> = lineage
            .witnesses
            .iter()
            .filter(|witness| witness.verdict(institution) == Verdict::Without)
            .filter_map(|witness| Some((witness, witness.content.as_ref().ok()?)))
            .collect();
        candidates.sort_by_key(|(witness, _)| witness.step);
        let mut clean = Self::default();
        for (witness, content) in candidates.into_iter().rev() {
            let complaint = match witness.checkpoints.verify(witness.step).await {
                Ok(verification) => verification.complaint(),
                Err(CheckpointError::Unusable { reason, .. }) => Some(reason),
                Err(error) => return Err(error.into()),
            };
            if let Some(complaint) = complaint {
                clean
                    .damaged
                    .push(format!("\n  {}: {complaint}", witness.url()));
                continue;
            }
            clean.newest = clean.newest.or(Some((witness, content)));
            let manifest = &content.manifest;
            if manifest.phase_kind == PhaseKind::Stable || manifest.reason == Reason::PhaseEnd {
                clean.start = Some((witness, content));
                break;
            }
        }
        Ok(clean)
    }

    /// What is said of them, in paragraphs.
    pub(super) fn describe(&self, institution: &str) -> String {
        let mut parts = Vec::new();
        if !self.damaged.is_empty() {
            parts.push(format!(
                "Without it, but damaged and passed over:{}",
                self.damaged.concat()
            ));
        }
        let place = |(witness, content): Read<'_>| {
            format!(
                "after step {} of phase \"{}\":\n  {}",
                witness.step,
                content.manifest.phase,
                witness.url()
            )
        };
        let anew = format!("a run without {institution} begins anew.");
        parts.push(match self.newest {
            Some(newest) => format!("The newest checkpoint without it, {}", place(newest)),
            None if self.damaged.is_empty() => format!("No checkpoint is without it: {anew}"),
            None => format!("No checkpoint that is whole is without it: {anew}"),
        });
        let inside = "That one stands inside a decay, which no other run can go on in";
        match (self.newest, self.start) {
            (Some(newest), Some(start)) if start.0.url() != newest.0.url() => {
                parts.push(format!(
                    "{inside}. The newest to go on from, {}",
                    place(start)
                ));
            }
            (Some(_), None) => parts.push(format!("{inside}, and so do all without it: {anew}")),
            _ => {}
        }
        format!("\n{}", parts.join("\n\n"))
    }
}
