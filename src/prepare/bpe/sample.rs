//! Which documents of a run are compared with the `tokenizers` library.
//!
//! Decided by a document's number in its source alone, so that every run of the same corpus
//! compares the same. The library takes tens of times as long, so a comparison takes a window of a
//! long document, which moves on with the number; together they cost some hundredths of a long run.

/// Every document with a lower number is compared: what is wrong from the start ends a run early.
const FIRST: u64 = 64;
/// Of the others one in so many: a prime number, lest sources that alternate show one kind only.
const EVERY: u64 = 997;
/// Bytes of the window, at most.
const WINDOW_BYTES: usize = 16 << 10;

/// What to compare of the document of this number; none as a rule.
pub fn window(text: &str, number: u64) -> Option<&str> {
    if number >= FIRST && !number.is_multiple_of(EVERY) {
        return None;
    }
    let windows = text.len().div_ceil(WINDOW_BYTES).max(1) as u64;
    let start = (number % windows) as usize * WINDOW_BYTES;
    let end = text.len().min(start + WINDOW_BYTES);
    Some(&text[text.floor_char_boundary(start)..text.floor_char_boundary(end)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_long_documents_in_turn() {
        let text = "é".repeat(3 * WINDOW_BYTES / 2 + 1) + "x";
        let windows: Vec<&str> = (0..4).filter_map(|number| window(&text, number)).collect();
        assert_eq!(windows.concat(), text);
        assert_eq!(window(&text, 4), Some(windows[0]));
        assert_eq!(window("", 3), Some(""));
        let sampled = |count| (0..count).filter(|n| window("a", *n).is_some()).count();
        assert_eq!(sampled(1000), 65);
        assert_eq!(sampled(100_000), 64 + 100);
    }
}
