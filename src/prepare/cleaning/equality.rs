//! What makes two documents equal.
//!
//! The first 128 bits of blake3 over the text without the white space before and after it, every
//! line end as `\n`. Case, Unicode form and white space inside the text count. Among 10^9 texts
//! that differ, the chance that any two are taken for equal is 10^18 / 2^129, below 10^-20.

use blake3::Hasher;

pub fn of_text(text: &str) -> u128 {
    let mut hasher = Hasher::new();
    let mut rest = text.trim();
    while let Some(at) = rest.find('\r') {
        hasher.update(&rest.as_bytes()[..at]);
        hasher.update(b"\n");
        let after = &rest[at + 1..];
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    hasher.update(rest.as_bytes());
    start_of(&hasher)
}

fn start_of(hasher: &Hasher) -> u128 {
    let mut start = [0; 16];
    start.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_and_line_ends_do_not_count() {
        let text = of_text("one\ntwo\n\nthree");
        assert_eq!(
            text,
            u128::from_le_bytes(
                blake3::hash(b"one\ntwo\n\nthree").as_bytes()[..16]
                    .try_into()
                    .unwrap()
            )
        );
        for same in [
            "one\r\ntwo\r\n\r\nthree\r\n",
            "one\rtwo\r\rthree",
            " \t\none\ntwo\r\n\nthree\u{a0}",
        ] {
            assert_eq!(of_text(same), text);
        }
        for other in [
            "One\ntwo\n\nthree",
            "one\ntwo\nthree",
            "one \ntwo\n\nthree",
            "one two\n\nthree",
            "",
        ] {
            assert_ne!(of_text(other), text);
        }
    }
}
