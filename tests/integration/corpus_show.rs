//! `cohort corpus show`: its numbers are those of a recount of the shards, its page is well-formed,
//! and text is shown where it was asked for and nowhere else.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_ipc::reader::FileReader;
use cohort::corpus::{Manifest, Split};
use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;
use serde_json::{Value, json};
use tempfile::TempDir;

const PRIVATE: &str = "Przewalski";

struct Place {
    folder: TempDir,
}

impl Place {
    /// A prepared corpus in `corpus`, of two institutions; some of the second one's documents say
    /// something private, one is empty.
    fn new(settings: &Value) -> Self {
        let place = Self::empty();
        let notes: Vec<String> = (0..90)
            .map(|number| {
                let text = match number {
                    7 => String::new(),
                    _ => format!(
                        "{PRIVATE} {number}: {}",
                        "pain at night\n".repeat(number % 13)
                    ),
                };
                json!({ "text": text }).to_string()
            })
            .collect();
        fs::write(place.path("notes.jsonl"), notes.join("\n")).unwrap();
        place.prepare(settings);
        place
    }

    fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn prepare(&self, settings: &Value) {
        let synthetic = json!({"synthetic": {"style": "discharge_summary", "documents": 40}});
        let mut yaml = json!({
            "name": "mixed",
            "output": "corpus",
            "tokenizer": {"train": {"vocab_size": 700}},
            "max_length": 64,
            "held_out": 0.2,
            "institutions": [
                {"id": "north", "name": "North & Sons", "country": "Iceland", "sources": [
                    {"id": "summaries", "licence": "none <needed>", "read": synthetic},
                ]},
                {"id": "south", "name": "South", "sources": [
                    {"id": "notes", "licence": "agreement 12", "read": {"json_lines": {
                        "path": "notes.jsonl", "text": "text",
                    }}},
                ]},
            ],
        });
        for (key, value) in settings.as_object().unwrap() {
            yaml[key] = value.clone();
        }
        fs::write(self.path("corpus.yaml"), yaml.to_string()).unwrap();
        self.good(&["prepare", "corpus.yaml"]);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cohort"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// What it printed, where it must have ended well and said nothing private on stderr.
    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert!(!stderr.contains(PRIVATE), "stderr repeats text");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error that it ended with.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(!stderr.contains(PRIVATE), "stderr repeats text");
        stderr
    }

    fn manifest(&self) -> Manifest {
        serde_json::from_slice(&fs::read(self.path("corpus/manifest.json")).unwrap()).unwrap()
    }

    /// The lengths of a split's documents and chunks, sorted, from the shards themselves.
    fn recount(&self, split: &Split) -> (Vec<u64>, Vec<u64>) {
        let mut documents: BTreeMap<u64, u64> = BTreeMap::new();
        let mut chunks = Vec::new();
        for shard in &split.shards {
            let file = File::open(self.path("corpus").join(&shard.stored.file)).unwrap();
            for batch in FileReader::try_new(file, None).unwrap() {
                let batch = batch.unwrap();
                let column = |name| batch.column_by_name(name).unwrap();
                let numbers = column("document").as_primitive::<UInt64Type>();
                let lists = column("input_ids").as_list::<i32>();
                for row in 0..batch.num_rows() {
                    let length = lists.value(row).len() as u64;
                    chunks.push(length);
                    *documents.entry(numbers.value(row)).or_default() += length;
                }
            }
        }
        let mut documents: Vec<u64> = documents.into_values().collect();
        documents.sort_unstable();
        chunks.sort_unstable();
        (documents, chunks)
    }
}

/// The rank that a percentage of a sorted list reaches.
fn rank(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

#[track_caller]
fn check_lengths(shown: &Value, sorted: &[u64]) {
    if sorted.is_empty() {
        assert!(shown.is_null());
        return;
    }
    let mean = sorted.iter().sum::<u64>() as f64 / sorted.len() as f64;
    assert!((shown["mean"].as_f64().unwrap() - mean).abs() < 1e-9 * mean);
    assert_eq!(shown["median"], rank(sorted, 50));
    assert_eq!(shown["p95"], rank(sorted, 95));
    assert_eq!(shown["longest"], sorted[sorted.len() - 1]);
    for bin in shown["histogram"].as_array().unwrap() {
        let from = bin["from"].as_u64().unwrap();
        let inside = sorted
            .iter()
            .filter(|length| (from..2 * from).contains(length));
        assert_eq!(bin["count"], inside.clone().count());
        assert_eq!(bin["tokens"], inside.sum::<u64>());
    }
}

#[test]
fn the_json_equals_a_recount_of_the_shards() {
    // Long chunks, so that lengths alone say where documents end; and chunks so short that many
    // documents end with a full one, in shards so small that documents lie across them.
    for (settings, opens_shards) in [
        (json!({"max_length": 4096}), false),
        (json!({"max_length": 8, "shard_bytes": 1024}), true),
    ] {
        let place = Place::new(&settings);
        let shown = place.good(&["corpus", "show", "corpus", "--json"]);
        assert_eq!(
            shown,
            place.good(&["corpus", "show", "corpus.yaml", "--json"])
        );
        let facts: Value = serde_json::from_str(&shown).unwrap();
        let manifest = place.manifest();
        let bytes = fs::read(place.path("corpus/manifest.json")).unwrap();
        assert_eq!(
            facts["manifest_digest"],
            blake3::hash(&bytes).to_hex().as_str()
        );
        assert_eq!(
            facts["tokenizer_digest"],
            manifest.tokenizer.digest.as_str()
        );
        assert_eq!(facts["dropped"], json!({"empty": 1}));
        for (place_in, institution) in manifest.institutions.iter().enumerate() {
            let own = &facts["institutions"][place_in];
            let source = &institution.sources[0];
            let shown = &own["sources"][0];
            assert_eq!(shown["name"], institution.name_of(source).as_str());
            assert_eq!(shown["licence"], source.licence.as_str());
            assert_eq!(shown["share"], own["share"]);
            for (name, split) in [("train", &source.train), ("held_out", &source.held_out)] {
                let (documents, chunks) = place.recount(split);
                let shown = &shown[name];
                assert_eq!(shown["documents"], documents.len());
                assert_eq!(shown["chunks"], chunks.len());
                assert_eq!(shown["tokens"], chunks.iter().sum::<u64>());
                check_lengths(&shown["document_lengths"], &documents);
                check_lengths(&shown["chunk_lengths"], &chunks);
            }
        }
        for shard in manifest
            .sources()
            .flat_map(|(_, _, source)| &source.train.shards)
        {
            fs::remove_file(place.path("corpus").join(&shard.stored.file)).unwrap();
        }
        let again = place.run(&["corpus", "show", "corpus", "--json"]);
        assert_eq!(again.status.success(), !opens_shards);
    }
}

/// The text of every table row of a page, cell by cell; the page must be well-formed XML.
fn rows(page: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(page).unwrap();
    let mut reader = Reader::from_str(&text);
    reader.config_mut().check_end_names = true;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut depth = 0;
    let mut inside = false;
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                depth += 1;
                for attribute in start.attributes() {
                    let value = attribute.unwrap().value;
                    unescape(std::str::from_utf8(&value).unwrap()).unwrap();
                }
                match start.name().as_ref() {
                    b"tr" => rows.push(Vec::new()),
                    b"td" | b"th" => {
                        rows.last_mut().unwrap().push(String::new());
                        inside = true;
                    }
                    _ => {}
                }
            }
            Event::End(end) => {
                depth -= 1;
                inside &= !matches!(end.name().as_ref(), b"td" | b"th");
            }
            Event::Text(text) if inside => {
                let text = text.decode().unwrap();
                let cell = rows.last_mut().unwrap().last_mut().unwrap();
                cell.push_str(&unescape(&text).unwrap());
            }
            Event::GeneralRef(name) if inside => {
                let reference = format!("&{};", name.decode().unwrap());
                let cell = rows.last_mut().unwrap().last_mut().unwrap();
                cell.push_str(&unescape(&reference).unwrap());
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0, "an element is left open");
    rows
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut groups: Vec<&str> = Vec::new();
    let mut rest = digits.as_str();
    while rest.len() > 3 {
        let (head, tail) = rest.split_at(rest.len() - 3);
        groups.push(tail);
        rest = head;
    }
    groups.push(rest);
    groups.reverse();
    groups.join(",")
}

#[test]
fn the_page_is_well_formed_and_says_what_the_manifest_says() {
    let place = Place::new(&json!({}));
    place.good(&["corpus", "show", "corpus", "--report", "page.html"]);
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    for stranger in ["<script", "src=", "href=", "@import", "url(", PRIVATE] {
        assert!(!page.contains(stranger), "{stranger}");
    }
    assert!(page.contains("North &amp; Sons"));
    let rows = rows(&place.path("page.html"));
    let manifest = place.manifest();
    let total: u64 = manifest
        .sources()
        .map(|(_, _, source)| source.train.tokens)
        .sum();
    for (_, _, source) in manifest.sources() {
        let named = rows.iter().filter(|row| row[0] == source.id);
        let [amounts, lengths] = &named.collect::<Vec<_>>()[..] else {
            panic!("{} stands in both tables", source.id);
        };
        let dropped = source.dropped.iter();
        let dropped: Vec<String> = dropped.map(|(reason, n)| format!("{n} {reason}")).collect();
        let share = source.train.tokens as f64 / total as f64 * 100.0;
        let expected = [
            source.id.clone(),
            source.licence.clone(),
            grouped(source.train.documents),
            grouped(source.train.tokens),
            format!("{share:.1} %"),
            grouped(source.held_out.documents),
            grouped(source.held_out.tokens),
            dropped.join(", "),
        ];
        assert_eq!(**amounts, expected);
        let (documents, chunks) = place.recount(&source.train);
        let mut expected = vec![source.id.clone()];
        for (sorted, count) in [(&documents, true), (&chunks, false)] {
            let mean = sorted.iter().sum::<u64>() as f64 / sorted.len() as f64;
            let longest = sorted[sorted.len() - 1];
            let numbers = [
                mean.round() as u64,
                rank(sorted, 50),
                rank(sorted, 95),
                longest,
            ];
            expected.extend(numbers.map(grouped));
            if count {
                expected.push(grouped(source.train.chunks));
            }
        }
        assert_eq!(**lengths, expected);
    }
    // The pictures have a bar for every source and every bin.
    let facts = place.good(&["corpus", "show", "corpus", "--json"]);
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let bins = |at: usize| &facts["institutions"][at]["sources"][0]["train"]["document_lengths"];
    let bins = [0, 1].map(|at| bins(at)["histogram"].as_array().unwrap().len());
    assert_eq!(
        page.matches("of the documents, ").count(),
        bins[0] + bins[1] + 1
    );
}

/// Most corpora have one document that is longer than all others.
#[test]
fn the_page_is_well_formed_where_a_bin_is_rare() {
    let rare = json!([{"id": "north", "name": "North", "sources": [{
        "id": "lines", "licence": "none",
        "read": {"json_lines": {"path": "lines.jsonl", "text": "text"}},
    }]}]);
    let place = Place::empty();
    let mut lines: Vec<String> = (0..3000)
        .map(|number| json!({"text": format!("Pulse {number}.")}).to_string())
        .collect();
    lines.push(json!({"text": "A long night. ".repeat(200)}).to_string());
    fs::write(place.path("lines.jsonl"), lines.join("\n")).unwrap();
    place.prepare(&json!({"institutions": rare, "max_length": 4096}));
    place.good(&["corpus", "show", "corpus", "--report", "page.html"]);
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains("&lt; 0.1 % of the documents"));
    assert!(rows(&place.path("page.html")).len() > 3);
}

#[test]
fn the_table_for_a_terminal() {
    let place = Place::new(&json!({"max_length": 4096}));
    let shown = place.good(&["corpus", "show", "corpus"]);
    assert!(!shown.contains(PRIVATE));
    for (_, institution, source) in place.manifest().sources() {
        let line = shown
            .lines()
            .find(|line| line.starts_with(&institution.name_of(source)));
        let line = line.unwrap();
        for part in [grouped(source.train.tokens), source.licence.clone()] {
            assert!(line.contains(&part), "{line:?} lacks {part:?}");
        }
    }
    assert!(shown.contains("dropped    1 empty"), "{shown}");
}

#[test]
fn text_is_shown_by_number() {
    let place = Place::new(&json!({"max_length": 32, "shard_bytes": 1024}));
    let show = |option: &str, number: u64| {
        let address = format!("south/notes:{number}");
        place.good(&["corpus", "show", "corpus", option, &address])
    };
    // Every document, whichever split it is in, after the space that the preparation put there.
    for (number, line) in (0..).zip(
        fs::read_to_string(place.path("notes.jsonl"))
            .unwrap()
            .lines(),
    ) {
        // The longest, the dropped one's neighbors, and the ends.
        if ![0, 6, 8, 12, 51, 89].contains(&number) {
            continue;
        }
        let note: Value = serde_json::from_str(line).unwrap();
        let expected = format!(" {}\n", note["text"].as_str().unwrap());
        assert_eq!(show("--document", number), expected, "{number}");
    }
    // The chunks of the training split, one after the other, are its documents.
    let source = &place.manifest().institutions[1].sources[0];
    let chunks = |count: u64, held_out: &[&str]| -> String {
        let text = (0..count).map(|number| {
            let address = format!("south/notes:{number}");
            let mut arguments = vec!["corpus", "show", "corpus.yaml", "--chunk", &address];
            arguments.extend(held_out);
            let text = place.good(&arguments);
            text.strip_suffix('\n').unwrap().to_owned()
        });
        text.collect()
    };
    let held_out = chunks(source.held_out.chunks.min(9), &["--held-out"]);
    let train = chunks(9, &[]);
    assert!(train.starts_with(&format!(" {PRIVATE} ")));
    assert!(held_out.starts_with(&format!(" {PRIVATE} ")));
    assert!(!train.contains("[CLS]") && !train.contains("[SEP]"));
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let place = Place::new(&json!({"max_length": 4096}));
    let show = |arguments: &[&str]| {
        let arguments = [&["corpus", "show"], arguments].concat();
        place.refused(&arguments)
    };
    insta::assert_snapshot!(show(&["corpus", "--chunk", "south/letters:1"]), @r"
    error: the corpus has no source `south/letters`
      hint: it has north/summaries, south/notes
    ");
    let source = &place.manifest().institutions[1].sources[0];
    let expected = format!(
        "error: source `south/notes` has {} chunks in its training split, counted from 0, so no \
         number {}\n  hint: `--held-out` is for those of the held-out split\n",
        source.train.chunks, source.train.chunks
    );
    let beyond = format!("south/notes:{}", source.train.chunks);
    assert_eq!(show(&["corpus", "--chunk", &beyond]), expected);
    insta::assert_snapshot!(show(&["corpus", "--document", "south/notes:7"]), @r"
    error: source `south/notes` has no document 7: it was dropped, or the source has fewer
      hint: documents are counted from 0 in the order in which they were read
    ");
    insta::assert_snapshot!(show(&["corpus", "--document", "south/notes:90"]), @r"
    error: source `south/notes` has no document 90: it was dropped, or the source has fewer
      hint: documents are counted from 0 in the order in which they were read
    ");
    insta::assert_snapshot!(show(&["nowhere"]), @r"
    error: cannot read the corpus manifest nowhere/manifest.json: No such file or directory (os error 2)
      hint: run cohort prepare first
    ");
    insta::assert_snapshot!(show(&["corpus", "--report", "page.pdf"]), @r"
    error: page.pdf is no name for a page: it does not end in .html
      hint: `--report corpus.html`
    ");
    for usage in [
        &["corpus", "--chunk", "south/notes"][..],
        &["corpus", "--held-out"],
        &["corpus", "--json", "--report", "page.html"],
    ] {
        let arguments = [&["corpus", "show"], usage].concat();
        assert_eq!(place.run(&arguments).status.code(), Some(2), "{usage:?}");
    }
}
