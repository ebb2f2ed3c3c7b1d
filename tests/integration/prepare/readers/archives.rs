//! Members of tar archives as if they were files.

use super::{PRIVATE, documents, gzip, refused, texts, xz};

const READ: &str = "text_files: {path: \"*.tar*\", members: \"**/*.txt*\"}";

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn members_are_documents_in_the_archives_order() {
    let long = format!("{}/c.txt", "long".repeat(60));
    let block = "x".repeat(512);
    let members: [(&str, &[u8]); 8] = [
        ("b.txt", b"second\r\nname first"),
        ("notes/a.txt", "na\u{ef}ve".as_bytes()),
        ("notes/readme.md", b"not asked for"),
        ("notes/._a.txt", b"\0\0hidden"),
        (&long, b"a long name"),
        ("packed.txt.gz", &gzip(&[b"packed itself"])),
        ("block.txt", block.as_bytes()),
        ("empty.txt", b""),
    ];
    let tar = archive(&members);
    for (name, bytes) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&[&tar])),
        ("a.tar.xz", xz(&tar)),
    ] {
        let found = documents(READ, &[(name, bytes)]).unwrap();
        let place = |member: &str| format!("DIR/{name}/{member}");
        let expected = [
            (place("b.txt"), "second\nname first"),
            (place("notes/a.txt"), "na\u{ef}ve"),
            (place(&long), "a long name"),
            (place("packed.txt.gz"), "packed itself"),
            (place("block.txt"), &block),
            (place("empty.txt"), ""),
        ];
        assert_eq!(
            found,
            expected.map(|(place, text)| (place, text.to_owned()))
        );
    }
}

#[test]
fn archives_one_after_the_other() {
    let (one, two) = (archive(&[("1.txt", b"one")]), archive(&[("2.txt", b"two")]));
    let filled = [&one[..], &[0; 10_240]].concat();
    for (name, bytes) in [
        ("a.tar", [&one[..], &two].concat()),
        ("a.tar", [&filled[..], &two, &[0; 300]].concat()),
        ("a.tar.gz", gzip(&[&one, &two])),
        ("a.tar.xz", [xz(&one), xz(&two)].concat()),
    ] {
        let found = texts(READ, &[(name, bytes)]).unwrap();
        assert_eq!(found, ["one", "two"], "{name}");
    }
    // The second has no end mark, or is no archive.
    let cut = two[..two.len() - 1024].to_vec();
    insta::assert_snapshot!(refused(READ, &[("a.tar", [&one[..], &cut].concat())]), @r"
    DIR/a.tar: the tar data ends early
      hint: the file is incomplete; copy it again
    ");
    for rest in [PRIVATE.to_owned(), PRIVATE.repeat(100)] {
        let bytes = [&one[..], rest.as_bytes()].concat();
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(READ, &[("a.tar", bytes)]), @r"
            DIR/a.tar: no tar archive, or a damaged one
              hint: `members` is for archives alone; copy the file again if it is one
            ");
        }
    }
}

#[test]
fn names_without_end() {
    // Deep enough to exhaust the stack of a matching that calls itself.
    let name = |bytes: usize| format!("{}nn.txt", "a/".repeat((bytes - 6) / 2));
    let most = archive(&[(&name(4096), b"deep")]);
    assert_eq!(texts(READ, &[("a.tar", most)]).unwrap(), ["deep"]);
    for bytes in [4098, 1_000_000] {
        let longer = archive(&[(&name(bytes), PRIVATE.as_bytes())]);
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(READ, &[("a.tar", longer)]), @r"
            DIR/a.tar: a member whose name is longer than 4096 bytes
              hint: look where the archive comes from; pack it anew with shorter names
            ");
        }
    }
}

#[test]
fn articles_in_archives() {
    let article = |title: &str| {
        format!(
            "<article><front><title-group><article-title>{title}</article-title></title-group>\
             </front></article>"
        )
    };
    let (one, two) = (article("One"), article("Two"));
    let tar = archive(&[("PMC1.xml", one.as_bytes()), ("d/PMC2.xml", two.as_bytes())]);
    let read = "jats: {path: a.tar, members: \"**/*.xml\"}";
    let found = documents(read, &[("a.tar", tar)]).unwrap();
    let expected = [
        ("DIR/a.tar/PMC1.xml, line 1", "One"),
        ("DIR/a.tar/d/PMC2.xml, line 1", "Two"),
    ];
    assert_eq!(
        found,
        expected.map(|(place, text)| (place.to_owned(), text.to_owned()))
    );
}

#[test]
fn archives_that_are_damaged_or_none() {
    let tar = archive(&[("a.txt", PRIVATE.repeat(200).as_bytes()), ("b.txt", b"b")]);
    // Within a header, within a member, after one, and before the end mark.
    for length in [300, 900, 512 + 2048, 512 + 2048 + 1024] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(READ, &[("a.tar", tar[..length].to_vec())]), @r"
            DIR/a.tar: the tar data ends early
              hint: the file is incomplete; copy it again
            ");
        }
    }
    let mut damaged = tar.clone();
    damaged[3] ^= 1;
    insta::assert_snapshot!(refused(READ, &[("a.tar", damaged)]), @r"
    DIR/a.tar: no tar archive, or a damaged one
      hint: `members` is for archives alone; copy the file again if it is one
    ");
    let text = PRIVATE.repeat(100).into_bytes();
    insta::assert_snapshot!(refused(READ, &[("a.tar", text)]), @r"
    DIR/a.tar: no tar archive, or a damaged one
      hint: `members` is for archives alone; copy the file again if it is one
    ");
    insta::assert_snapshot!(refused("text_files: {path: a.tar}", &[("a.tar", tar)]), @r"
    DIR/a.tar: a tar archive, not a text
      hint: name its texts with `members`
    ");
    let binary = archive(&[("a.txt", b"ab\0cd")]);
    insta::assert_snapshot!(refused(READ, &[("a.tar", binary)]), @r"
    DIR/a.tar/a.txt, line 1, byte 2: a NUL character, so this is no text
      hint: take the file out of `path`; UTF-16 without a byte-order mark needs `encoding: utf-16`
    ");
}
