//! Bytes in every encoding, cut into pieces everywhere, and what is no text.

use proptest::prelude::*;

use super::*;
use crate::prepare::encoding;
use crate::prepare::fault::{DOCUMENT_BYTES_MAX, Fault};
use crate::prepare::text::line_ends::normalize_line_ends;

/// Hands out its bytes in small pieces, so that characters fall on every boundary.
struct Trickle(Vec<u8>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }
}

fn decode_as(encoding: Encoding, bytes: &[u8], piece: usize) -> Result<String, Fault> {
    let opening = Opening {
        encoding,
        counts: Arc::default(),
    };
    let input = Box::new(Trickle(bytes.to_vec(), piece));
    let mut reader = TextReader::new(Path::new("a").into(), input, opening);
    let mut text = Vec::new();
    match reader.read_to_end(&mut text) {
        Ok(_) => Ok(String::from_utf8(text).expect("the reader's promise")),
        Err(error) => Err(error.downcast::<Fault>().expect("a fault of the text")),
    }
}

fn decode(bytes: &[u8], piece: usize) -> Result<String, Fault> {
    decode_as(Encoding::Auto, bytes, piece)
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

fn no(encoding: &'static str, line: u64, byte: u64) -> Result<String, Fault> {
    Err(Fault::Encoding {
        encoding,
        line,
        byte,
    })
}

/// A text that Windows-1252 has and its bytes, by an implementation that is not ours.
fn windows(text: &str) -> Vec<u8> {
    let (bytes, _, lossy) = encoding_rs::WINDOWS_1252.encode(text);
    assert!(!lossy);
    bytes.into_owned()
}

proptest! {
    #[test]
    fn texts_survive_every_encoding(text in "[^\u{0}\u{feff}]{0,40}", piece in 1_usize..9) {
        let (little, big) = (utf16(&text, u16::to_le_bytes), utf16(&text, u16::to_be_bytes));
        let marked = |mark: &[u8], rest: &[u8]| [mark, rest].concat();
        let expected = normalize_line_ends(text.clone());
        for bytes in [
            marked(&[0xef, 0xbb, 0xbf], text.as_bytes()),
            marked(&[0xff, 0xfe], &little),
            marked(&[0xfe, 0xff], &big),
        ] {
            for encoding in [Encoding::Auto, Encoding::Utf8, Encoding::Windows1252] {
                prop_assert_eq!(decode_as(encoding, &bytes, piece), Ok(expected.clone()));
            }
        }
        let read = decode_as(Encoding::Utf8, text.as_bytes(), piece);
        prop_assert_eq!(read, Ok(expected.clone()));
        // Some of these texts begin like files of other kinds, all others are UTF-8.
        if encoding::recognize(text.as_bytes(), Encoding::Auto).is_ok() {
            prop_assert_eq!(decode(text.as_bytes(), piece), Ok(expected));
        }
    }

    #[test]
    fn plain_utf16_is_seen_by_its_zeros(text in "[ -~\n]{1,40}", piece in 1_usize..9) {
        for bytes in [utf16(&text, u16::to_le_bytes), utf16(&text, u16::to_be_bytes)] {
            prop_assert_eq!(decode(&bytes, piece), Ok(text.clone()));
            prop_assert_eq!(decode_as(Encoding::Utf16, &bytes, piece), Ok(text.clone()));
        }
    }

    #[test]
    fn windows_1252_is_read_right_or_refused(text in "[ -~\n]{0,9}[ -~é€’“ß°ÄÜö\u{a0}Ãâ]{0,40}") {
        let bytes = windows(&text);
        prop_assert_eq!(decode_as(Encoding::Windows1252, &bytes, 5), Ok(text.clone()));
        for piece in [1, 3, 4096] {
            match decode(&bytes, piece) {
                // What by chance is UTF-8 throughout can be told apart by nobody.
                Ok(read) => prop_assert!(read == text || read.as_bytes() == bytes),
                Err(fault) => {
                    let known = matches!(fault, Fault::Mixed { .. } | Fault::Encoding { .. });
                    prop_assert!(known, "{}", fault);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_text_or_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let encodings = [
            Encoding::Auto,
            Encoding::Utf8,
            Encoding::Utf16,
            Encoding::Windows1252,
        ];
        for encoding in encodings {
            let whole = decode_as(encoding, &bytes, 4096);
            prop_assert_eq!(decode_as(encoding, &bytes, 1), whole.clone());
            if let Ok(text) = whole {
                prop_assert!(!text.contains('\0'));
            }
        }
    }
}

#[test]
fn the_table_of_windows_1252_is_the_known_one() {
    for byte in 0..=255 {
        let bytes = [byte];
        let (known, _) = encoding_rs::WINDOWS_1252.decode_without_bom_handling(&bytes);
        let known = known.chars().next();
        // The table of the web gives control characters to the five bytes that have none.
        let undefined = matches!(byte, 0x81 | 0x8d | 0x8f | 0x90 | 0x9d);
        assert_eq!(encoding::windows_1252(byte), known.filter(|_| !undefined));
    }
}

#[test]
fn one_byte_decides_and_later_ones_are_held_to_it() {
    for piece in 1..9 {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(
            decode(b"ab\ncd\nna\xefve \x93ok\x94", piece),
            ok("ab\ncd\nnaïve “ok”")
        );
        // A last letter alone, and one that is cut off.
        assert_eq!(decode(b"caf\xe9", piece), ok("café"));
        assert_eq!(decode(b"caf\xc3", piece), no("UTF-8 or Windows-1252", 1, 3));
        assert_eq!(
            decode(b"a \xe2\x80", piece),
            no("UTF-8 or Windows-1252", 1, 2)
        );
        // Invalid UTF-8 after valid, and the reverse.
        assert_eq!(decode("né\nna\u{ef}ve".as_bytes(), piece), ok("né\nnaïve"));
        assert_eq!(decode(b"n\xc3\xa9\nna\xefve", piece), no("UTF-8", 2, 6));
        let mixed = decode(b"na\xefve\nn\xc3\xa9", piece);
        assert_eq!(mixed, Err(Fault::Mixed { line: 2, byte: 7 }));
        // Chance: a sharp s before a closing quote is valid UTF-8, but of no Western character.
        assert_eq!(decode(b"\x84Spa\xdf\x93", piece), ok("„Spaß“"));
        // Bytes without a character, and control characters before and after.
        assert_eq!(decode(b"na\xefve\x81", piece), no("Windows-1252", 1, 5));
        assert_eq!(decode(b"\x81", piece), no("UTF-8 or Windows-1252", 1, 0));
        assert_eq!(
            decode(b"\x02\nna\xefve", piece),
            no("UTF-8 or Windows-1252", 2, 4)
        );
        assert_eq!(decode(b"na\xefve\x02", piece), no("Windows-1252", 1, 5));
    }
}

#[test]
fn faults_name_line_and_byte() {
    let utf8 = |bytes: &[u8], piece| decode_as(Encoding::Utf8, bytes, piece);
    for piece in 1..9 {
        assert_eq!(utf8(b"ab\ncd\nna\xefve", piece), no("UTF-8", 3, 8));
        assert_eq!(utf8(b"caf\xc3", piece), no("UTF-8", 1, 3));
        assert_eq!(
            decode(b"\xff\xfea\0\n\0\0\xd8b\0", piece),
            no("UTF-16", 2, 6)
        );
        assert_eq!(decode(b"\xff\xfea\0b", piece), no("UTF-16", 1, 4));
        let nul = Err(Fault::Nul { line: 2, byte: 3 });
        assert_eq!(decode(b"a\nb\0", piece), nul);
    }
}

#[test]
fn other_files_are_known_by_their_first_bytes() {
    let tar = [&[b'a'; 257][..], b"ustar  \0"].concat();
    for (bytes, kind) in [
        (&b"%PDF-1.7\n%"[..], "a PDF document"),
        (b"{\\rtf1\\ansi", "an RTF document"),
        (b"PK\x03\x04\x14", "a zip archive or an Office document"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (&tar, "a tar archive"),
    ] {
        match decode(bytes, 3) {
            Err(Fault::NotText { kind: found, .. }) => assert_eq!(found, kind),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(decode(b"%PDF", 3), Ok("%PDF".to_owned()));
}

#[test]
fn a_document_has_a_limit_and_the_next_one_its_own() {
    let endless = || Box::new(io::repeat(b'a').take(3 * DOCUMENT_BYTES_MAX / 2));
    let mut reader = TextReader::new(Path::new("a").into(), endless(), Opening::default());
    reader.meter().begin_document(7);
    let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    let fault = error.downcast::<Fault>().unwrap();
    assert_eq!(fault, Fault::TooLong { line: 7 });

    let mut reader = TextReader::new(Path::new("a").into(), endless(), Opening::default());
    let meter = reader.meter();
    let half = DOCUMENT_BYTES_MAX / 2 + DOCUMENT_BYTES_MAX / 4;
    for _ in 0..2 {
        meter.begin_document(meter.line());
        let taken = io::copy(&mut (&mut reader).take(half), &mut io::sink());
        assert_eq!(taken.unwrap(), half);
    }
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn line_ends_are_counted_and_normalized_whatever_they_are() {
    for piece in 1..9 {
        assert_eq!(
            decode(b"a\r\n\rb\rc\n", piece),
            Ok("a\n\nb\nc\n".to_owned())
        );
        // The byte is that of the file, with its carriage returns.
        let nul = Err(Fault::Nul { line: 4, byte: 7 });
        assert_eq!(decode(b"a\r\nb\rc\r\0", piece), nul);
        assert_eq!(decode(b"a\rb\r\nna\xef\r\xc3\xa9", piece), {
            let (line, byte) = (4, 9);
            Err(Fault::Mixed { line, byte })
        });
    }
}

#[test]
fn greek_and_mathematics_contradict_a_guess() {
    for text in ["\u{3b2}-blocker", "p \u{2264} 0.05", "\u{2011}", "\u{2192}"] {
        let bytes = [b"na\xefve\n", text.as_bytes()].concat();
        let byte = 6 + text.bytes().position(|byte| byte > 127).unwrap() as u64;
        assert_eq!(decode(&bytes, 4), Err(Fault::Mixed { line: 2, byte }));
        // What the configuration says is no guess.
        assert!(decode_as(Encoding::Windows1252, &bytes, 4).is_ok());
    }
}

#[test]
fn guesses_are_counted_and_the_first_file_is_known() {
    let counts = Arc::<ReadCounts>::default();
    assert_eq!(counts.windows_1252.told(), None);
    for (name, bytes) in [
        ("a.txt", "naïve".as_bytes()),
        ("b.txt", b"na\xefve"),
        ("c.txt", b"\x93so\x94"),
    ] {
        let opening = Opening {
            encoding: Encoding::Auto,
            counts: Arc::clone(&counts),
        };
        let file = TextFile::of_bytes(Path::new(name).into(), bytes.to_vec(), &opening);
        file.and_then(TextFile::read_whole).unwrap();
    }
    assert_eq!(counts.windows_1252.told(), Some((Path::new("b.txt"), 2)));
}
