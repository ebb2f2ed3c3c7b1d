//! Which documents training never sees.
//!
//! Decided by the text alone, or by the token ids where there is no text, so that equal texts fall
//! on one side, in whatever source or order they stand, and a document never changes sides when
//! others are added. Texts are equal as cleaning has it, also where it does not drop them. Raising
//! the share only ever moves documents out of training.

use crate::prepare::cleaning::equality;

/// Whether a document of this text is held out, at a share in thousandths.
pub fn is_held_out(text: &str, permille: u32) -> bool {
    is_below(equality::of_text(text) as u64, permille)
}

/// Whether a document of these token ids is: by four bytes an id, the lowest first, however wide
/// they were stored.
pub fn ids_are_held_out(ids: &[u32], permille: u32) -> bool {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let digest = blake3::hash(&bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    is_below(u64::from_le_bytes(first), permille)
}

/// `first` are the first eight bytes of a digest, the lowest first.
fn is_below(first: u64, permille: u32) -> bool {
    first % 1000 < u64::from(permille)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_fall_on_one_side() {
        let sides = (0..200).map(|number| {
            let text = format!("note {number}\nno fever\n\nno cough");
            let side = is_held_out(&text, 500);
            for same in [
                format!("{text}\n"),
                format!(" \t{text}\u{a0}"),
                text.replace('\n', "\r\n"),
                text.replace('\n', "\r"),
            ] {
                assert_eq!(is_held_out(&same, 500), side, "{same:?}");
            }
            side
        });
        let held_out = sides.filter(|side| *side).count();
        assert!((60..140).contains(&held_out), "{held_out} of 200");
    }

    /// Another rule would move documents of corpora that are trained on to the other side.
    #[test]
    fn the_side_is_that_of_a_hash() {
        let side = |bytes: &[u8]| {
            let digest = blake3::hash(bytes);
            let first = digest.as_bytes()[..8].iter().rev();
            let first = first.fold(0, |value, byte| (value << 8) | u64::from(*byte));
            first % 1000 < 300
        };
        for number in 0..100_u8 {
            let text = format!("note {number}\nno fever");
            assert_eq!(is_held_out(&text, 300), side(text.as_bytes()));
            let bytes = [number, 1, 0, 0, 7, 0, 0, 0];
            let ids = [u32::from(number) + 256, 7];
            assert_eq!(ids_are_held_out(&ids, 300), side(&bytes));
        }
    }
}
