//! Which documents training never sees.
//!
//! Decided by the text alone, so that equal texts fall on one side, in whatever source or order
//! they stand, and a document never changes sides when others are added. Raising the share only
//! ever moves documents out of training.

/// Whether a document of this text is held out, at a share in thousandths.
pub fn is_held_out(text: &str, permille: u32) -> bool {
    let digest = blake3::hash(text.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first) % 1000 < u64::from(permille)
}
