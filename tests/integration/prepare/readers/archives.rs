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

#[test]
fn a_name_that_comes_twice() {
    // As tar leaves them when it appends or updates; the library that writes here drops the dot.
    let mut tar = archive(&[("n.txt", b"old"), ("b.txt", b"b")]);
    tar.truncate(tar.len() - 1024);
    for name in ["n.txt", "./n.txt"] {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(3);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b"new"[..]).unwrap();
        let both = [&tar[..], &builder.into_inner().unwrap()].concat();
        assert_eq!(
            refused(READ, &[("a.tar", both)]),
            format!(
                "DIR/a.tar/{name}: a second member of this name, as tar leaves them when it \
                 appends or updates\n  hint: unpack the archive, where the last one counts, and \
                 pack it anew"
            )
        );
    }
    // What does not match, in other folders, and in archives one after the other.
    let tar = archive(&[
        ("n.md", b"old"),
        ("n.md", b"new"),
        ("n.txt", b"1"),
        ("a/n.txt", b"2"),
    ]);
    let both = [&tar[..], &archive(&[("n.txt", b"3")])].concat();
    assert_eq!(texts(READ, &[("a.tar", both)]).unwrap(), ["1", "2", "3"]);
}

/// A file of five bytes after a hole, between two others.
fn sparse(name: &str, with_attributes: bool) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    builder
        .append_data(&mut header, "a.txt", &b"a"[..])
        .unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    let mut path = name.to_owned();
    if with_attributes {
        let attributes = [
            ("major", "1"),
            ("minor", "0"),
            ("name", name),
            ("realsize", "517"),
        ];
        let attributes = attributes.map(|(key, value)| (format!("GNU.sparse.{key}"), value));
        let attributes = attributes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_bytes()));
        builder.append_pax_extensions(attributes).unwrap();
        path = format!("GNUSparseFile.1/{name}");
    } else {
        header.set_entry_type(tar::EntryType::GNUSparse);
        let fields = header.as_gnu_mut().unwrap();
        fields.sparse[0].offset.copy_from_slice(b"00000001000\0");
        fields.sparse[0].numbytes.copy_from_slice(b"00000000005\0");
        fields.realsize.copy_from_slice(b"00000001005\0");
    }
    builder
        .append_data(&mut header, path, &PRIVATE.as_bytes()[..5])
        .unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    builder
        .append_data(&mut header, "b.txt", &b"b"[..])
        .unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn sparse_members_are_passed_over_or_named() {
    for with_attributes in [false, true] {
        let passed = sparse("s.bin", with_attributes);
        assert_eq!(texts(READ, &[("a.tar", passed)]).unwrap(), ["a", "b"]);
        let wanted = sparse("s.txt", with_attributes);
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(READ, &[("a.tar", wanted)]), @r"
            DIR/a.tar/s.txt: stored as a sparse file, which is not read
              hint: pack the archive anew, without --sparse
            ");
        }
    }
}
