//! The report's colors and its style sheet.
//!
//! Eight hues for institutions, each at least 3 : 1 against the page in the light and in the dark
//! (WCAG 2.2, 1.4.11); whatever a color says, a word beside it says too.

/// Institutions with a color of their own; the others, the smallest, share a gray.
pub(super) const COLORS: usize = 8;

/// The class of the institution of this rank, the largest being 0.
pub(super) fn class(rank: usize) -> String {
    if rank < COLORS {
        format!("c{rank}")
    } else {
        "rest".to_owned()
    }
}

pub(super) const STYLE: &str = include_str!("report.css");
