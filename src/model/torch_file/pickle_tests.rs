//! Pickles by hand. Those of real files are tested in `tests/integration/composer.rs`.

use proptest::prelude::*;
use tch::Kind;

use super::*;
use crate::model::torch_file::value::Value;

/// What each of the files of tests is made of: opcodes and bytes, protocol 2 in front.
fn objects(parts: &[&[u8]]) -> Result<Objects> {
    read([b"\x80\x02", parts.concat().as_slice()].concat())
}

fn described(parts: &[&[u8]]) -> String {
    Value::root(&objects(parts).unwrap()).describe()
}

fn error(parts: &[&[u8]]) -> String {
    format!("{:#}", objects(parts).unwrap_err())
}

fn text(words: &str) -> Vec<u8> {
    let length = u32::try_from(words.len()).unwrap().to_le_bytes();
    [b"X", length.as_slice(), words.as_bytes()].concat()
}

#[test]
fn plain_values_are_understood() {
    // {"a": (1, -2, 300, 70000), "b": [True, False, None], "c": 1.5, "a": "last"}
    let pickle = objects(&[
        b"}(",
        &text("a"),
        b"(K\x01J\xfe\xff\xff\xffM\x2c\x01J\x70\x11\x01\x00t",
        &text("b"),
        b"](\x88\x89Ne",
        &text("c"),
        b"G\x3f\xf8\x00\x00\x00\x00\x00\x00",
        b"u.",
    ])
    .unwrap();
    let root = Value::root(&pickle);
    let items = |key: &str| root.get(key).unwrap().items().unwrap().collect::<Vec<_>>();
    let numbers: Vec<_> = items("a")
        .into_iter()
        .map(|item| item.integer().unwrap())
        .collect();
    assert_eq!(numbers, [1, -2, 300, 70_000]);
    let [yes, no, none] = items("b")[..] else {
        panic!("three items");
    };
    assert_eq!(
        (yes.boolean(), no.boolean(), none.is_none()),
        (Some(true), Some(false), true)
    );
    assert_eq!(root.get("c").and_then(Value::number), Some(1.5));
    assert!(root.get("d").is_none());
    let twice = objects(&[b"}", &text("k"), b"K\x01s", &text("k"), b"K\x02s."]).unwrap();
    assert_eq!(
        Value::root(&twice).get("k").and_then(Value::integer),
        Some(2)
    );
}

#[test]
fn long_integers_and_bytes_are_understood() {
    for (long, wanted) in [
        (&b"\x8a\x00."[..], Some(0)),
        (b"\x8a\x01\xff.", Some(-1)),
        (b"\x8a\x02\x00\x80.", Some(-32_768)),
        (b"\x8a\x03\x00\x80\x00.", Some(32_768)),
        (
            b"\x8b\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f.",
            Some(i64::MAX),
        ),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", None),
    ] {
        assert_eq!(Value::root(&objects(&[long]).unwrap()).integer(), wanted);
    }
    assert_eq!(described(&[b"C\x02ab."]), "bytes");
    assert_eq!(
        described(&[b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab."]),
        "bytes"
    );
    // Half of a surrogate pair.
    assert_eq!(described(&[b"\x8c\x03\xed\xa0\x80."]), "bytes");
    assert_eq!(described(&[b"\x8f(K\x01\x90."]), "a set");
    assert_eq!(described(&[b"(K\x01\x91."]), "a set");
    assert_eq!(
        described(&[b"cbuiltins\nset\n](K\x01K\x02e\x85R."]),
        "a list"
    );
}

#[test]
fn what_would_be_called_is_opaque() {
    let system = "what the name posix.system would have made";
    assert_eq!(
        described(&[b"cposix\nsystem\n", &text("reboot"), b"\x85R."]),
        system
    );
    assert_eq!(
        described(&[b"\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R."]),
        system
    );
    assert_eq!(described(&[b"cposix\nsystem\n)\x81."]), system);
    assert_eq!(described(&[b"cposix\nsystem\n)}\x92."]), system);
    assert_eq!(
        described(&[b"(cposix\nsystem\n", &text("x"), b"o."]),
        system
    );
    assert_eq!(described(&[b"(", &text("x"), b"iposix\nsystem\n."]), system);
    // getattr(…, …)(…): the callable itself is what a call would have made.
    let nested = b"cbuiltins\ngetattr\n)R)R.";
    assert_eq!(
        described(&[nested]),
        "what an unknown function would have made"
    );
    // A state for an object changes what it is; an ordered dictionary keeps its entries.
    assert_eq!(
        described(&[b"K\x01}b."]),
        "a value that its class would have changed"
    );
    assert_eq!(
        described(&[b"ccollections\nOrderedDict\n)R}b."]),
        "a dictionary"
    );
    assert_eq!(
        described(&[b"cos\nsystem\n)R(K\x01e."]),
        "what the name os.system would have made"
    );
    assert_eq!(
        described(&[b"\x82\x01."]),
        "an object of the extension registry"
    );
}

#[test]
fn damage_is_named_with_its_place() {
    for (pickle, wanted) in [
        (
            &b""[..],
            "the pickle is damaged at byte 2: it ends in the middle of a value",
        ),
        (b"X\xff\xff\xff\xff", "it ends in the middle of a value"),
        (
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
            "it ends in the middle of a value",
        ),
        (b".", "its stack is empty"),
        (b"K\x01(K\x02(.", "its stack is empty"),
        (b"t.", "it closes what it did not open"),
        (b"h\x05.", "its memo has no entry 5"),
        (b"K\x01K\x02a.", "puts items into what is no container"),
        (b"}(K\x01u.", "a key of a dictionary has no value"),
        (b"cos\nsystem", "a name has no end"),
        (b"K\x01K\x02\x93.", "it names a class by what is no text"),
        (b"I1\n.", "opcode 0x49 is none that torch.save writes"),
        (b"\x80\x06.", "it is of protocol 6; 2 to 5 are known"),
        (b"\x97.", "opcode 0x97 is none that torch.save writes"),
    ] {
        let error = error(&[pickle]);
        assert!(error.contains(wanted), "{wanted:?} is missing in {error:?}");
    }
}

#[test]
fn a_list_in_itself_is_no_problem() {
    let pickle = objects(&[b"]q\x00h\x00a."]).unwrap();
    let mut inner = Value::root(&pickle);
    for _ in 0..1000 {
        inner = inner.items().unwrap().next().unwrap();
    }
    assert_eq!(inner.describe(), "a list");
    // So is a memo entry as high as there can be.
    assert_eq!(
        described(&[b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff."]),
        "None"
    );
}

#[test]
fn a_small_pickle_stays_small() {
    assert!(error(&[&b"(".repeat(DEPTH_MAX + 1)]).contains("nests more than"));
    assert!(error(&[b"N", &b"2".repeat(STACK_MAX)]).contains("stack is too high"));
    assert!(error(&[&b"N0".repeat(OBJECTS_MAX + 1)]).contains("more than"));
    // A list of lists of lists, each twice the one before: shared, not copied.
    let doubling: Vec<u8> = b"]q\x00"
        .iter()
        .chain(&b"](h\x00h\x00eq\x00".repeat(500))
        .copied()
        .collect();
    let pickle = objects(&[&doubling, b"."]).unwrap();
    assert!(pickle.table.len() < 600);
}

fn storage(class: &str) -> Vec<u8> {
    let class = format!("c{class}\n");
    [
        b"(",
        &text("storage")[..],
        class.as_bytes(),
        &text("7"),
        &text("cpu"),
        b"K\x06tQ",
    ]
    .concat()
}

#[test]
fn tensors_are_described_and_nothing_more() {
    let rebuild = &b"ctorch._utils\n_rebuild_tensor_v2\n"[..];
    let rest = b"K\x02K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)Rt";
    let floats = storage("torch\nFloatStorage");
    let pickle = objects(&[rebuild, b"(", &floats, rest, b"R."]).unwrap();
    let record = Value::root(&pickle).tensor().unwrap();
    assert_eq!((record.kind, record.shape), (Kind::Float, vec![2, 2]));
    assert_eq!(
        (record.key.as_str(), record.offset, record.elements),
        ("7", 2, 6)
    );
    let parameter = b"ctorch._utils\n_rebuild_parameter\n";
    let pickle = objects(&[parameter, b"(", rebuild, b"(", &floats, rest, b"R\x89NtR."]).unwrap();
    assert!(Value::root(&pickle).tensor().is_some());
    // Sizes below 0, sizes without strides, storages of an unknown class.
    let negative = b"K\x02J\xff\xff\xff\xff\x85K\x01\x85t";
    let wrong = "a tensor that is described wrongly";
    assert_eq!(described(&[rebuild, b"(", &floats, negative, b"R."]), wrong);
    assert_eq!(
        described(&[rebuild, b"(", &floats, b"K\x02K\x02\x85)tR."]),
        wrong
    );
    let evil = storage("os\nsystem");
    assert_eq!(described(&[rebuild, b"(", &evil, rest, b"R."]), wrong);
    assert_eq!(
        described(&[&evil, b"."]),
        "what the name os.system would have made"
    );
    // A tensor that its class would have changed is none any more.
    let changed = described(&[rebuild, b"(", &floats, rest, b"R}b."]);
    assert_eq!(changed, "a value that its class would have changed");
}

proptest! {
    /// Any bytes: an error or values, in little time and memory, and no panic.
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(objects) = read(bytes) {
            Value::root(&objects).describe();
        }
    }

    /// Opcodes in any order.
    #[test]
    fn no_opcodes_panic(
        parts in prop::collection::vec(prop::sample::select(OPCODES), 0..60),
    ) {
        if let Ok(objects) = read(parts.concat()) {
            let root = Value::root(&objects);
            root.describe();
            root.tensor();
            root.get("storage");
        }
    }
}

const OPCODES: &[&[u8]] = &[
    b"N",
    b"\x88",
    b"K\x07",
    b"J\xff\xff\xff\xff",
    b"\x8a\x01\x80",
    b"\x8c\x07storage",
    b"C\x01a",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"(",
    b"0",
    b"1",
    b"2",
    b"q\x00",
    b"\x94",
    b"h\x00",
    b"h\x01",
    b"t",
    b"l",
    b"d",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x91",
    b"a",
    b"e",
    b"s",
    b"u",
    b"\x90",
    b"R",
    b"\x81",
    b"\x92",
    b"o",
    b"b",
    b"Q",
    b"\x93",
    b"cos\nsystem\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nSize\n",
    b".",
    b"\x95\x00\x00\x00\x00\x00\x00\x00\x00",
];
