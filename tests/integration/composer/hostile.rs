//! Files that want to be more than data, and files that are less than whole.

use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::archive::{Archive, text, write};
use super::{error, fixture, insert_value, named, numbered, replace, take};

/// Pickled calls of `os.system`, in all ways that pickles have.
fn calls(command: &str) -> Vec<(&'static str, Vec<u8>)> {
    let command = text(command);
    let system = &b"cposix\nsystem\n"[..];
    vec![
        ("REDUCE", [system, &command, b"\x85R"].concat()),
        (
            "STACK_GLOBAL",
            [
                &text("posix"),
                &text("system")[..],
                b"\x93",
                &command,
                b"\x85R",
            ]
            .concat(),
        ),
        ("NEWOBJ", [system, &command, b"\x85\x81"].concat()),
        ("NEWOBJ_EX", [system, &command, b"\x85}\x92"].concat()),
        ("OBJ", [b"(", system, &command, b"o"].concat()),
        ("INST", [b"(", &command[..], b"iposix\nsystem\n"].concat()),
        (
            "BUILD",
            [
                b"c__builtin__\nobject\n)R}",
                &text("__setstate__")[..],
                system,
                b"sb",
                &command,
                b"b",
            ]
            .concat(),
        ),
        (
            "nested",
            [
                b"c__builtin__\nlist\nc__builtin__\nmap\n",
                system,
                b"](",
                &command,
                b"e\x86R\x85R",
            ]
            .concat(),
        ),
    ]
}

#[test]
fn what_a_file_wants_to_run_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("it-ran");
    let archive = Archive::read(&fixture("numbered.pt"));
    for (how, call) in calls(&format!("touch {}", mark.display())) {
        // Where nobody looks it is nothing.
        let file = archive.with_pickle(|pickle| insert_value(pickle, "run_name", &call));
        take(file.path(), &numbered()).unwrap_or_else(|error| panic!("{how}: {error:#}"));
        // Where a value is needed it is none.
        for (key, place) in [
            ("model", "FILE is no checkpoint of Composer: "),
            ("step", "its step is "),
        ] {
            let file = archive.with_pickle(|pickle| insert_value(pickle, key, &call));
            let error = error(file.path(), &numbered());
            assert!(error.contains(place), "{how}: {error}");
            assert!(
                error.contains("would have") || how == "nested",
                "{how}: {error}"
            );
            assert!(error.contains("hint: "), "{how}: {error}");
        }
    }
    // Every tensor is a call.
    let file = archive.with_pickle(|pickle| {
        replace(
            pickle,
            b"ctorch._utils\n_rebuild_tensor_v2",
            b"cposix\nsystem_and_much_that_goes",
        )
    });
    assert_eq!(
        error(file.path(), &numbered()),
        "FILE is no checkpoint of Composer: state.model: model.embeddings.tok_embeddings.weight is \
         what the name posix.system_and_much_that_goes would have made, no tensor\n  \
         hint: name the `….pt` of a training run, as `ep0-ba52988-rank0.pt`"
    );
    assert!(!mark.exists(), "a pickle ran a command");
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn what_is_no_file_of_torch_is_refused() {
    let missing = Path::new("/nowhere/ep0-ba1-rank0.pt");
    assert_eq!(
        error(missing, &named()),
        "cannot read FILE: No such file or directory (os error 2)\n  \
         hint: name a checkpoint file of Composer, `….pt`"
    );
    for bytes in [&b""[..], b"no archive", b"\x80\x02}.", &[0; 5000]] {
        let error = error(file_of(bytes).path(), &named());
        assert!(error.starts_with("cannot use FILE: this is no intact zip archive, as torch.save"));
        assert!(error.ends_with(
            "hint: was it downloaded whole? Files of torch before 1.6 must be saved anew"
        ));
    }
    let empty = write(&[("archive/other".to_owned(), Vec::new())]);
    assert!(error(empty.path(), &named()).contains("the archive holds no data.pkl"));
    for (pickle, wanted) in [
        (
            &b"\x80\x02K\x01."[..],
            "FILE is no checkpoint of Composer: it has no `state`",
        ),
        (
            b"\x80\x02]q\x00h\x00a.",
            "FILE is no checkpoint of Composer: it has no `state`",
        ),
        (
            b"\x80\x02}X\x05\x00\x00\x00state}s.",
            "it has no state.model",
        ),
        (
            b"\x80\x02}",
            "cannot use FILE: the pickle is damaged at byte 3: it ends",
        ),
    ] {
        let file = write(&[("archive/data.pkl".to_owned(), pickle.to_vec())]);
        let error = error(file.path(), &named());
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_is_not_whole_is_refused() {
    let whole = fs::read(fixture("numbered.pt")).unwrap();
    for length in [
        1,
        100,
        10_000,
        whole.len() / 2,
        whole.len() - 100,
        whole.len() - 1,
    ] {
        let error = error(file_of(&whole[..length]).path(), &numbered());
        assert!(error.contains("no intact zip archive"), "{length}: {error}");
    }
    let archive = Archive::read(&fixture("numbered.pt"));
    let of = |storage: &'static str, content: &'static [u8]| {
        let file = archive.with(|name, bytes| {
            if name == storage {
                content.to_vec()
            } else {
                bytes.to_vec()
            }
        });
        error(file.path(), &numbered())
    };
    for (error, wanted) in [
        (
            of("byteorder", b"big"),
            "its numbers are in byte order \"big\", only \"little\" is read",
        ),
        (
            of("version", b"11"),
            "the archive is of layout \"11\"; up to 10 is known",
        ),
        (
            of("data/0", b"1234"),
            "model.embeddings.tok_embeddings.weight: storage 0 should hold 192 numbers of 4 bytes, \
             its file has 4 bytes",
        ),
    ] {
        assert!(
            error.starts_with(&format!("cannot use FILE: {wanted}")),
            "{error}"
        );
    }
    // One bit of a weight: the archive's checksum tells.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let told = error(file_of(&flipped).path(), &numbered());
    assert!(told.contains("Invalid checksum"), "{told}");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let archive = Archive::read(&fixture("numbered.pt"));
    // A tensor of 2^62 numbers over a storage that claims as many; and one with an offset.
    let storage = [
        b"(",
        &text("storage")[..],
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40tQ",
    ]
    .concat();
    let tensor = |offset: &[u8], shape: &[u8], strides: &[u8]| {
        let rebuild = &b"ctorch._utils\n_rebuild_tensor_v2\n("[..];
        [rebuild, &storage, offset, shape, strides, b"\x89NtR"].concat()
    };
    let huge = b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40\x85";
    for value in [
        tensor(b"K\x00", huge, b"K\x01\x85"),
        tensor(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b")", b")"),
        tensor(b"K\x00", b"(K\x01K\x01t", b"(K\x01K\x01t"),
    ] {
        let file = archive.with_pickle(|pickle| insert_value(pickle, "step", &value));
        let error = error(file.path(), &numbered());
        assert!(
            error.contains("cannot take the optimizer's state"),
            "{error}"
        );
    }
    // A zip whose directory claims more than there is.
    let mut bytes = fs::read(fixture("numbered.pt")).unwrap();
    let entry = bytes
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap();
    bytes[entry + 20..entry + 28].copy_from_slice(b"\xfe\xff\xff\x7f\xfe\xff\xff\x7f");
    let error = error(file_of(&bytes).path(), &numbered());
    assert!(
        error.contains("claims 2147483646 bytes, more than the whole archive has"),
        "{error}"
    );
}

#[test]
fn compressed_archives_are_refused() {
    let mut bytes = fs::read(fixture("numbered.pt")).unwrap();
    let entry = bytes
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap();
    bytes[entry + 10] = 8; // deflate
    let error = error(file_of(&bytes).path(), &numbered());
    assert!(error.contains("data.pkl"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any bytes of the file changed: taken or refused, no panic.
    #[test]
    fn no_damage_to_the_file_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = fs::read(fixture("numbered.pt")).unwrap();
        for (place, value) in changes {
            let length = bytes.len();
            bytes[place.index(length)] = value;
        }
        let _ = take(file_of(&bytes).path(), &numbered());
    }

    /// Any bytes of the pickle changed, in an archive with the right checksums.
    #[test]
    fn no_damage_to_the_pickle_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut in prop::bool::weighted(0.1),
    ) {
        let archive = Archive::read(&fixture("numbered.pt"));
        let file = archive.with_pickle(|pickle| {
            let mut pickle = pickle.to_vec();
            for (place, value) in &changes {
                let length = pickle.len();
                pickle[place.index(length)] = *value;
            }
            if is_cut {
                pickle.truncate(cut.index(pickle.len()));
            }
            pickle
        });
        let _ = take(file.path(), &numbered());
    }
}
