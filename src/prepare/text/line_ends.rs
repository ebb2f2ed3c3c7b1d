//! Line ends as `\n`, whatever system a text came from.

/// Normalizes a text that comes in pieces; where it is cut leaves no trace.
#[derive(Debug, Default)]
pub struct LineEnds {
    /// The last byte was a carriage return, which became a line end already.
    after_return: bool,
}

impl LineEnds {
    pub fn normalize(&mut self, text: &mut Vec<u8>) {
        if !self.after_return && !text.contains(&b'\r') {
            return;
        }
        text.retain_mut(|byte| {
            let is_told = self.after_return && *byte == b'\n';
            self.after_return = *byte == b'\r';
            if self.after_return {
                *byte = b'\n';
            }
            !is_told
        });
    }
}

/// The same of a whole text.
pub fn normalize_line_ends(text: String) -> String {
    if text.contains('\r') {
        text.replace("\r\n", "\n").replace('\r', "\n")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_ends_become_newlines() {
        assert_eq!(normalize_line_ends("a\r\nb\rc\n".to_owned()), "a\nb\nc\n");
    }

    proptest! {
        #[test]
        fn pieces_are_normalized_like_the_whole(
            pieces in prop::collection::vec("[a\r\n]{0,4}", 0..8),
        ) {
            let (mut ends, mut text) = (LineEnds::default(), Vec::new());
            for piece in &pieces {
                let mut piece = piece.clone().into_bytes();
                ends.normalize(&mut piece);
                text.extend(piece);
            }
            prop_assert_eq!(text, normalize_line_ends(pieces.concat()).into_bytes());
        }
    }
}
