//! Compressions and encodings, and the files that lie among texts and are none.

use super::{PRIVATE, gzip, refused, texts, xz};

const FILES: &str = "text_files: {path: \"*.txt\"}";
const JSON: &str = "json_lines: {path: notes.jsonl, text: text}";

#[test]
fn every_compression_reads_alike() {
    let text = "A line of a note.\n".repeat(20_000);
    let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
    let (head, tail) = text.as_bytes().split_at(70_001);
    let files = [
        ("1.txt", text.clone().into_bytes()),
        ("2.txt", gzip(&[head, tail])),
        ("3.txt", zstd),
        ("4.txt", xz(text.as_bytes())),
        ("5.txt", [xz(head), xz(tail)].concat()),
    ];
    let read = texts(FILES, &files).unwrap();
    assert_eq!(read.len(), files.len());
    assert!(read.iter().all(|read| *read == text));
}

#[test]
fn truncated_and_damaged_xz() {
    let line = format!("{{\"text\": \"{PRIVATE}\"}}\n").repeat(500);
    let whole = xz(line.as_bytes());
    let half = whole[..whole.len() / 2].to_vec();
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", half)]), @r"
    DIR/notes.jsonl: the xz data ends early
      hint: the file is incomplete; copy it again
    ");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0xff;
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", damaged)]), @r"
    DIR/notes.jsonl: the xz data is damaged
      hint: copy the file again
    ");
}

#[test]
fn encodings_are_told_or_seen() {
    let little: Vec<u8> = "Sated, no pain."
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let files = [
        ("1.txt", b"Caf\xe9 au lait, 38.5 \xb0C".to_vec()),
        ("2.txt", "\u{feff}Café".as_bytes().to_vec()),
        ("3.txt", little),
    ];
    let expected = ["Café au lait, 38.5 °C", "Café", "Sated, no pain."];
    assert_eq!(texts(FILES, &files).unwrap(), expected);
    // Known by its beginning alone, and not by how much of the file is there.
    let mut long = "Notes of a clinic. ".repeat(40);
    long += &"\u{75e9}\u{72c0}\n".repeat(20_000);
    let little = long.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(texts(FILES, &[("1.txt", little)]).unwrap(), [long]);
    let told = "text_files: {path: \"*.txt\", encoding: windows-1252}";
    assert_eq!(texts(told, &files[..2]).unwrap(), expected[..2]);
    let told = "text_files: {path: \"*.txt\", encoding: utf-16}";
    assert_eq!(texts(told, &files[1..]).unwrap(), expected[1..]);
    let told = "text_files: {path: \"*.txt\", encoding: utf-8}";
    insta::assert_snapshot!(refused(told, &files), @r"
    DIR/1.txt, line 1, byte 3: not valid UTF-8
      hint: convert the file to UTF-8, for example with iconv, or name its encoding with `encoding`
    ");
    // Two encodings in one file cannot both be right.
    let table = b"id,text\n1,na\xefve\n2,na\xc3\xafve\n".to_vec();
    let csv = "csv: {path: notes.csv, text: text}";
    insta::assert_snapshot!(refused(csv, &[("notes.csv", table)]), @r"
    DIR/notes.csv, line 3, byte 20: UTF-8 here and Windows-1252 before
      hint: convert the file to one encoding, or name the right one with `encoding`
    ");
}

#[test]
fn files_that_are_no_text() {
    let pdf = format!("%PDF-1.7\n%\u{e2}\n{PRIVATE}");
    insta::assert_snapshot!(refused(FILES, &[("1.txt", pdf.into_bytes())]), @r"
    DIR/1.txt: a PDF document, not a text
      hint: convert it to plain text, or take it out of `path`
    ");
    let image = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", PRIVATE.as_bytes()].concat();
    insta::assert_snapshot!(refused(FILES, &[("1.txt", image)]), @r"
    DIR/1.txt, line 3, byte 8: a NUL character, so this is no text
      hint: take the file out of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`
    ");
    let numbers: Vec<u8> = (1..=3000_u16)
        .flat_map(|n| (n % 9 + 1).to_le_bytes())
        .collect();
    insta::assert_snapshot!(refused(FILES, &[("1.txt", numbers)]), @r"
    DIR/1.txt, line 1, byte 1: a NUL character, so this is no text
      hint: take the file out of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`
    ");
    let zeros = vec![0; 5000];
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", zeros)]), @r"
    DIR/notes.jsonl, line 1, byte 0: a NUL character, so this is no text
      hint: take the file out of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`
    ");
}

#[test]
fn streams_with_filling_and_frames_that_are_passed_over() {
    let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
    let (one, two) = (line("one"), line("two"));
    let zeros = vec![0; 200_000];
    let zipped = |bytes: &[u8]| gzip(&[bytes]);
    // As pzstd writes them: before each frame, one of four bytes that tells its length.
    let skippable =
        |first: u8| [&[first, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"\x01\0\0\0"].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    for bytes in [
        [zipped(&one), zeros.clone(), zipped(&two), zeros.clone()].concat(),
        [zipped(&one), vec![0], zipped(&two), vec![0; 3]].concat(),
        [skippable(0x50), zstd(&one), skippable(0x5f), zstd(&two)].concat(),
        [skippable(0x5f), zstd(&one), zstd(&two)].concat(),
    ] {
        assert_eq!(
            texts(JSON, &[("notes.jsonl", bytes)]).unwrap(),
            ["one", "two"]
        );
    }
    let rest = [zipped(&one), zeros, PRIVATE.into()].concat();
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", rest)]), @r"
    DIR/notes.jsonl: the gzip data is damaged
      hint: copy the file again
    ");
}

/// Data of zstd that is not compressed, in a frame with a window of this many bits (RFC 8878).
fn zstd_frame(window_log: u8, data: &[u8]) -> Vec<u8> {
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    let block = (data.len() as u32) << 3 | 1;
    [&head[..], &block.to_le_bytes()[..3], data].concat()
}

/// Data of xz that asks for a dictionary of 1 GiB: the first block's header begins after twelve
/// bytes and says its size in its fifth (the .xz file format, 3.1 and 5.3.1).
fn xz_of_a_gigabyte(data: &[u8]) -> Vec<u8> {
    let mut packed = xz(data);
    let end = 12 + 4 * usize::from(packed[12]);
    assert_eq!(packed[13..16], [0, 0x21, 1]);
    packed[16] = 36;
    let mut crc = flate2::Crc::new();
    crc.update(&packed[12..end]);
    packed[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
    packed
}

#[test]
fn data_that_needs_more_memory_is_not_called_damaged() {
    let line = b"{\"text\": \"a\"}\n";
    let read = texts(JSON, &[("notes.jsonl", zstd_frame(27, line))]);
    assert_eq!(read.unwrap(), ["a"]);
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", zstd_frame(30, line))]), @r"
    DIR/notes.jsonl: the zstd data needs more memory than is given to decompress it
      hint: compress the file anew, with zstd without --long or with xz -9 at most
    ");
    insta::assert_snapshot!(refused(JSON, &[("notes.jsonl", xz_of_a_gigabyte(line))]), @r"
    DIR/notes.jsonl: the xz data needs more memory than is given to decompress it
      hint: compress the file anew, with zstd without --long or with xz -9 at most
    ");
}
