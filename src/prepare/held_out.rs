//! Which documents training never sees.
//!
//! Decided by the text alone, or by the token ids where there is no text, so that equal texts fall
//! on one side, in whatever source or order they stand, and a document never changes sides when
//! others are added. Raising the share only ever moves documents out of training.

/// Whether a document of this text is held out, at a share in thousandths.
pub fn is_held_out(text: &str, permille: u32) -> bool {
    are_held_out(text.as_bytes(), permille)
}

/// Whether a document of these token ids is: by four bytes an id, the lowest first, however wide
/// they were stored.
pub fn ids_are_held_out(ids: &[u32], permille: u32) -> bool {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    are_held_out(&bytes, permille)
}

fn are_held_out(bytes: &[u8], permille: u32) -> bool {
    let digest = blake3::hash(bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first) % 1000 < u64::from(permille)
}
