//! Which encoding a text is in: what its owner says, what its first bytes say, and a guess that
//! gives up rather than go wrong.
//!
//! A byte-order mark always counts. Without one, `auto` takes UTF-16 where three of four pairs of
//! bytes are a zero and a plain character of ASCII, UTF-8 where the bytes are valid, and otherwise
//! Windows-1252. As ASCII is the same in both, the last choice falls at the first byte beyond it,
//! and nothing is read twice however large the file. From then on a byte that contradicts the
//! choice refuses the file: invalid UTF-8 in the one case; in the other a character that
//! Windows-1252 has, a Greek letter, or a sign of punctuation or mathematics in the form that UTF-8
//! gives it, a byte that Windows-1252 leaves undefined, or a control character that no text has.

use serde::{Deserialize, Serialize};

use crate::prepare::fault::Fault;

/// Bytes at the start of a text that are looked at to recognize it.
pub const START_BYTES: usize = 1024;

/// What a file without a byte-order mark is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// UTF-8, plain UTF-16, or Windows-1252 where the bytes are no UTF-8; the log counts such files
    /// and names the first.
    #[default]
    Auto,
    /// UTF-8, and nothing else.
    #[serde(rename = "utf-8")]
    Utf8,
    /// UTF-16; little-endian unless plain ASCII in it says otherwise.
    #[serde(rename = "utf-16")]
    Utf16,
    /// Windows-1252, which Latin-1 texts are read as too.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

/// How the bytes become characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// Only ASCII so far: UTF-8 or Windows-1252.
    Open,
    Utf8,
    Utf16Little,
    Utf16Big,
    Windows1252 {
        guessed: bool,
    },
}

/// What stands at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// A character as UTF-8 has it.
    Valid(char),
    Invalid,
    /// The beginning of a character of which the rest is not there.
    Incomplete,
}

/// The decoding of a text and the bytes of its byte-order mark, from its first [`START_BYTES`].
pub fn recognize(start: &[u8], wanted: Encoding) -> Result<(Decoding, usize), Fault> {
    if let Some((_, _, kind, hint)) = NO_TEXTS
        .iter()
        .find(|(at, magic, ..)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
    {
        return Err(Fault::NotText { kind, hint });
    }
    Ok(match start {
        [0xef, 0xbb, 0xbf, ..] => (Decoding::Utf8, 3),
        [0xff, 0xfe, ..] => (Decoding::Utf16Little, 2),
        [0xfe, 0xff, ..] => (Decoding::Utf16Big, 2),
        _ => (unmarked(start, wanted), 0),
    })
}

fn unmarked(start: &[u8], wanted: Encoding) -> Decoding {
    let pairs = || start.chunks_exact(2);
    let little = pairs().filter(|pair| is_plain(pair[1], pair[0])).count();
    let big = pairs().filter(|pair| is_plain(pair[0], pair[1])).count();
    let most = |plain: usize| plain * 4 > pairs().len() * 3;
    match wanted {
        Encoding::Auto if most(little) => Decoding::Utf16Little,
        Encoding::Auto if most(big) => Decoding::Utf16Big,
        Encoding::Auto => Decoding::Open,
        Encoding::Utf8 => Decoding::Utf8,
        Encoding::Utf16 if big > little => Decoding::Utf16Big,
        Encoding::Utf16 => Decoding::Utf16Little,
        Encoding::Windows1252 => Decoding::Windows1252 { guessed: false },
    }
}

/// Whether a unit of UTF-16 is a character of ASCII that texts have.
fn is_plain(high: u8, low: u8) -> bool {
    high == 0 && low.is_ascii() && low != 0x7f && !is_binary(low)
}

/// The choice between UTF-8 and Windows-1252 from `rest`, which begins with the first byte beyond
/// ASCII; none where more bytes are needed, or where neither can be.
pub fn decide(rest: &[u8], ended: bool) -> Option<Decoding> {
    let windows = || {
        let printable = windows_1252(*rest.first()?).is_some();
        printable.then_some(Decoding::Windows1252 { guessed: true })
    };
    // A text cut off within a character of UTF-8, more likely than a last letter such as these.
    let cut_off = rest.len() > 1 || matches!(rest, [0xc2 | 0xc3]);
    match first_sequence(rest) {
        Sequence::Valid(_) => Some(Decoding::Utf8),
        Sequence::Incomplete if !ended || cut_off => None,
        Sequence::Incomplete | Sequence::Invalid => windows(),
    }
}

/// What `rest`, which is not empty, begins with.
pub fn first_sequence(rest: &[u8]) -> Sequence {
    let head = &rest[..rest.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) if error.error_len().is_none() => return Sequence::Incomplete,
        Err(_) => return Sequence::Invalid,
    };
    valid
        .chars()
        .next()
        .map_or(Sequence::Invalid, Sequence::Valid)
}

/// The character of a byte in Windows-1252; five bytes have none.
pub fn windows_1252(byte: u8) -> Option<char> {
    match byte {
        0x80..0xa0 => Some(BEYOND_LATIN_1[usize::from(byte - 0x80)]).filter(|c| *c != '\0'),
        _ => Some(char::from(byte)),
    }
}

/// Whether this character beyond ASCII, in the form that UTF-8 gives it, is more likely itself than
/// the characters that its bytes are in Windows-1252: one that Western and scientific texts have.
pub fn contradicts_windows_1252(character: char) -> bool {
    matches!(character, '\u{a0}'..='\u{ff}' | '\u{370}'..='\u{3ff}' | '\u{2000}'..='\u{22ff}')
        || (character != '\0' && BEYOND_LATIN_1.contains(&character))
}

/// Whether a byte is a control character that does not occur in texts.
pub fn is_binary(byte: u8) -> bool {
    // Beside tabulators, line ends and page feeds: the end mark of DOS and the escape of terminals.
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | 0x1a | 0x1b)
}

/// Bytes 0x80 to 0x9f of Windows-1252, `\0` where undefined (unicode.org, CP1252.TXT).
const BEYOND_LATIN_1: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘',
    '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

const CONVERT: &str = "convert it to plain text, or take it out of `path`";
const UNPACK: &str = "unpack it, or take it out of `path`";

/// Files that lie among texts and are none: the place of their mark, the mark, what they are and
/// what to do.
const NO_TEXTS: [(usize, &[u8], &str, &str); 8] = [
    (0, b"%PDF-", "a PDF document", CONVERT),
    (0, b"{\\rtf", "an RTF document", CONVERT),
    (0, &[0xd0, 0xcf, 0x11, 0xe0], "an Office document", CONVERT),
    (
        0,
        b"PK\x03\x04",
        "a zip archive or an Office document",
        CONVERT,
    ),
    (0, b"BZh91AY&SY", "bzip2 data", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"PAR1", "a Parquet file", "read it with `parquet`"),
    (
        257,
        b"ustar",
        "a tar archive",
        "name its texts with `members`",
    ),
];
