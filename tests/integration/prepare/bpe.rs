//! Cohort's own byte-level BPE against the `tokenizers` library: the same ids for every text.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use cohort::prepare;
use cohort::prepare::bpe::Encoder;
use cohort::prepare::synthetic::{Notes, Style};
use cohort::prepare::train_tokenizer;
use proptest::prelude::*;
use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{shared_corpus, text_of};

/// Of the real documents one in so many, chosen by the hash of their text.
const SHARED_EVERY: u8 = 64;

/// A tokenizer in both engines.
struct Pair {
    name: &'static str,
    library: Tokenizer,
    fast: Encoder,
}

impl Pair {
    fn new(name: &'static str, json: &Value) -> Self {
        let mut library = Tokenizer::from_bytes(json.to_string()).unwrap();
        library.set_encode_special_tokens(true);
        let fast = Encoder::new(&library, json).unwrap();
        Self {
            name,
            library,
            fast,
        }
    }

    fn expected(&self, text: &str) -> Vec<u32> {
        let encoding = self.library.encode_fast(text, false).unwrap();
        encoding.get_ids().to_vec()
    }

    #[track_caller]
    fn check(&self, text: &str) {
        let (fast, expected) = (self.fast.encode(text), self.expected(text));
        assert!(fast == expected, "{}: {text:?}", self.name);
    }
}

/// A tokenizer as Cohort trains it, small.
fn trained() -> Value {
    let notes = [Style::DischargeSummary, Style::Dialogue].map(|style| {
        let notes = Notes::new(style, "clinic", "notes");
        (0..40).map(move |number| notes.note(number))
    });
    let texts: Vec<String> = notes.into_iter().flatten().collect();
    serde_json::from_slice(&train_tokenizer::train(&texts, 1500).unwrap()).unwrap()
}

fn added(content: &str, normalized: bool, special: bool) -> Value {
    json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": normalized, "special": special})
}

/// One of each kind that the family has, and the real one where it is.
static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let plain = trained();
    let mut spaced = plain.clone();
    spaced["pre_tokenizer"]["add_prefix_space"] = json!(true);
    spaced["normalizer"] = Value::Null;
    let mut whole = plain.clone();
    whole["model"]["ignore_merges"] = json!(true);
    // Words that no merge makes.
    for (index, word) in ["Ġzq", "zqzq", "Ã©", "38"].into_iter().enumerate() {
        whole["model"]["vocab"][word] = json!(1500 + index);
    }
    let mut extended = plain.clone();
    for (content, normalized, special) in [
        ("  ", true, false),
        ("     ", true, false),
        ("\n\n", false, false),
        ("|||IP_ADDRESS|||", true, false),
        ("cafe\u{301}", true, false),
        ("e\u{301}", false, false),
        ("P]a", false, false),
        ("|", true, true),
        ("'", false, false),
    ] {
        let tokens = extended["added_tokens"].as_array_mut().unwrap();
        tokens.push(added(content, normalized, special));
    }
    let mut worded = plain.clone();
    for (content, normalized) in [
        ("fever", true),
        ("patient", false),
        ("zq", true),
        ("38", true),
        ("Fever's 38", true),
        ("cafe\u{301}", true),
        (" mg", true),
        ("...", false),
        ("½", true),
        ("日本", true),
    ] {
        let mut token = added(content, normalized, false);
        token["single_word"] = json!(true);
        worded["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let mut pairs = vec![
        Pair::new("plain", &plain),
        Pair::new("worded", &worded),
        Pair::new("spaced", &spaced),
        Pair::new("whole words", &whole),
        Pair::new("extended", &extended),
    ];
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let real = project.join("../shared/data/tokenizer/modernbert/tokenizer.json");
    // Where it is absent `real_documents_have_the_same_ids` says so.
    if let Ok(json) = std::fs::read(real) {
        let json = serde_json::from_slice(&json).unwrap();
        pairs.push(Pair::new("ModernBERT", &json));
    }
    pairs
});

/// What texts are hard because of.
const FRAGMENTS: [&str; 62] = [
    " ",
    " ",
    "  ",
    "   ",
    "     ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{85}",
    "\u{2000}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "\u{feff}",
    "\u{0}",
    "'",
    "'s",
    "'S",
    "'ll",
    "'re",
    "'x",
    "’s",
    "[SEP]",
    "[MASK]",
    "[MAS",
    "P]a",
    "[UNK",
    "<|endoftext|>",
    "<|padding",
    "|||IP_ADDRESS|||",
    "|||IP_ADD",
    "|",
    "[unused1]",
    "[unused12",
    "patient",
    "Fever",
    " mg",
    "fever",
    "s",
    "_",
    "\u{203f}",
    "\u{200d}",
    "ª",
    "38",
    "½",
    "٣",
    "é",
    "e\u{301}",
    "cafe\u{301}",
    "\u{301}",
    "\u{323}\u{301}",
    "\u{1100}\u{1161}\u{11a8}",
    "\u{212b}",
    "\u{2126}",
    "क\u{93c}",
    "日本",
    "😀",
    "µ",
    "zq",
    "...",
];

fn hard_text() -> impl Strategy<Value = String> {
    let fragment = proptest::sample::select(&FRAGMENTS[..]).prop_map(str::to_owned);
    let piece = prop_oneof![
        6 => fragment,
        1 => any::<char>().prop_map(String::from),
        1 => "[a-z]{1,9}",
        1 => "[\u{300}-\u{345}]{1,3}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn hard_texts_have_the_same_ids(text in hard_text()) {
        for pair in &*PAIRS {
            pair.check(&text);
        }
    }

    #[test]
    fn any_texts_have_the_same_ids(text in "\\PC{0,40}|.{0,40}|[ \t\n\r\u{a0}'a1.]{0,40}") {
        for pair in &*PAIRS {
            pair.check(&text);
        }
    }

    #[test]
    fn long_words_have_the_same_ids(word in "[a-e]{30,300}|(he|er|ation|t){12,90}|[!-/]{30,80}") {
        for pair in &*PAIRS {
            pair.check(&word);
        }
    }
}

/// A text without a space costs no more than n log n; slower ways would not end.
#[test]
fn long_texts_without_a_break_have_the_same_ids() {
    let pair = PAIRS.last().unwrap();
    for unit in ["a", "ation", "é", "ab0c=", "\u{301}", " ", "\n", "|"] {
        pair.check(&unit.repeat((1 << 18) / unit.len()));
    }
}

#[test]
fn other_kinds_are_refused_and_told_why() {
    let plain = trained();
    let refusal = |path: &str, value: Value| {
        let mut json = plain.clone();
        *json.pointer_mut(path).unwrap() = value;
        let tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
        let refused = Encoder::new(&tokenizer, &json).err();
        refused.expect("another kind").to_string()
    };
    let lower = json!({"type": "Lowercase"});
    insta::assert_snapshot!(
        refusal("/normalizer", lower), @"its normalizer is another than NFC");
    let whitespace = json!({"type": "Whitespace"});
    insta::assert_snapshot!(
        refusal("/pre_tokenizer", whitespace), @"its pre-tokenizer is another than ByteLevel"
    );
    insta::assert_snapshot!(
        refusal("/pre_tokenizer/use_regex", json!(false)),
        @"its words are cut by another pattern than GPT-2's"
    );
    insta::assert_snapshot!(
        refusal("/post_processor/single", json!([])), @"its post-processor may change ids"
    );
    insta::assert_snapshot!(
        refusal("/model/end_of_word_suffix", json!("</w>")),
        @"its tokens carry a prefix or a suffix"
    );
    insta::assert_snapshot!(
        refusal("/model/vocab/[PAD]", json!(40)), @"two of its tokens have the same id"
    );
    let mut token = added("fever", true, false);
    token["lstrip"] = json!(true);
    insta::assert_snapshot!(
        refusal("/added_tokens", json!([token])),
        @"an added token that is not special has `lstrip` or `rstrip`"
    );
    let words = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    insta::assert_snapshot!(refusal("/model", words), @"its model is no BPE");
    let few = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    insta::assert_snapshot!(refusal("/model", few), @"it has no token for byte 0x00");
}

#[test]
fn real_documents_have_the_same_ids() {
    let Some((config, origin)) = shared_corpus() else {
        return;
    };
    let mut texts = Vec::new();
    for job in prepare::find_inputs(&config, origin.parent().unwrap()).unwrap() {
        let documents = job.documents(&Arc::default());
        let chosen = |text: &String| {
            blake3::hash(text.as_bytes()).as_bytes()[0].is_multiple_of(SHARED_EVERY)
        };
        texts.extend(
            documents
                .map(|document| text_of(document.unwrap()))
                .filter(chosen),
        );
    }
    assert!(texts.len() > 100, "{} documents", texts.len());
    for pair in PAIRS.iter().rev().take(2) {
        texts
            .par_iter()
            .for_each(|text| assert!(pair.fast.encode(text) == pair.expected(text)));
    }
}
