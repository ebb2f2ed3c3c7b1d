//! Preparing the real text that lies beside the project, where it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cohort::corpus::Manifest;
use cohort::prepare;
use cohort::prepare::inputs::Places;
use cohort::prepare::progress::Silent;
use cohort::prepare::readers;
use tokio::time::Instant;

use super::{shared_corpus, text_of};

/// Prints what a preparation came to.
#[expect(clippy::print_stdout, reason = "figures for whoever runs the test")]
pub fn report(manifest: &Manifest, elapsed: Duration) {
    let mut tokens = 0;
    for (index, institution, source) in manifest.sources() {
        let (train, held_out) = (&source.train, &source.held_out);
        tokens += train.tokens + held_out.tokens;
        println!(
            "{index} {}/{}: {} + {} documents, {} + {} chunks, {} + {} tokens, dropped {:?}",
            institution.id,
            source.id,
            train.documents,
            held_out.documents,
            train.chunks,
            held_out.chunks,
            train.tokens,
            held_out.tokens,
            source.dropped,
        );
    }
    let seconds = elapsed.as_secs_f64();
    println!(
        "{tokens} tokens in {seconds:.1} s, {:.0} tokens/s",
        tokens as f64 / seconds
    );
}

#[test]
fn the_shared_corpus_prepares() {
    let Some((mut config, origin)) = shared_corpus() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    config.output = folder.path().join("corpus");
    let started = Instant::now();
    // A pool of its own: others' tests would wait for these batches in the common one.
    let pool = rayon::ThreadPoolBuilder::new().build().unwrap();
    let manifest = pool
        .install(|| prepare::run(&config, &origin, &mut Silent))
        .unwrap();
    report(&manifest, started.elapsed());

    let info = &manifest.tokenizer;
    assert_eq!((info.vocab_size, info.random_ids_end), (50_368, 50_285));
    assert_eq!((info.unk, info.cls, info.sep), (50_280, 50_281, 50_282));
    assert_eq!((info.pad, info.mask), (50_283, 50_284));
    let counted: Vec<(String, u64)> = manifest
        .sources()
        .map(|(_, institution, source)| {
            let dropped: u64 = source.dropped.values().sum();
            let documents = source.train.documents + source.held_out.documents + dropped;
            (format!("{}/{}", institution.id, source.id), documents)
        })
        .collect();
    // Counted by other means: lines of the JSON files, rows of the tables, files of the folders,
    // elements that an answer stands in.
    let expected = [
        ("nlm/pmc", 2365),
        ("nlm/jats", 120),
        ("nlm/pubmed", 2396),
        ("nih/medquad", 13_398),
        ("nih/medquad-pages", 3025),
        ("aci-bench/visits", 2 * 207),
        ("mts-dialog/sections", 2 * 1701),
        ("primock57/notes", 57),
        ("primock57/consultations", 57),
        ("western/interviews", 272),
        ("stanford/q-pain", 55),
    ];
    assert_eq!(
        counted,
        expected.map(|(name, documents)| (name.to_owned(), documents))
    );
    let again = Instant::now();
    assert_eq!(
        prepare::run(&config, &origin, &mut Silent).unwrap(),
        manifest
    );
    println!("kept in {:.3} s", again.elapsed().as_secs_f64());
}

/// blake3 over the texts of each source, a NUL after each, from readers written for this check in
/// another language: element trees for the XML, a regular expression for the transcripts, the
/// language's own module for the tables.
const TEXTS: [(&str, &str); 7] = [
    (
        "nlm/jats",
        "a34533aa173cc4ca13f48a88b314dd01e52f1aaafda9faca5830f1d36e2ffebc",
    ),
    (
        "nih/medquad-pages",
        "7167e959d9037ed1635a76d6344f60cbf38d6eed5f3804c46b7db6826045451f",
    ),
    (
        "aci-bench/visits",
        "04e5084a3f0487e3bc632dfb43b4fb9406f2d973178c14e43c288b74809ac5a8",
    ),
    (
        "mts-dialog/sections",
        "32e0b0626419fd4d0146a4a1532f07f324932bba4d73d7c26516120f844facac",
    ),
    (
        "primock57/consultations",
        "be1b968da625354beb26217dd1f82671dfefb13209c5c1b12ae671dc8f11ad2c",
    ),
    (
        "western/interviews",
        "e4560c22e4c6988fd773b1444d178addd4422c701b3a7892661ea69778919596",
    ),
    (
        "stanford/q-pain",
        "66fcccd51bf8aefcc9d68147a16ea247f7230f81ce20329d482729bb01412b33",
    ),
];

#[test]
fn the_shared_texts_are_those_of_other_readers() {
    let Some((config, origin)) = shared_corpus() else {
        return;
    };
    let mut digests = BTreeMap::new();
    for institution in &config.institutions {
        for source in &institution.sources {
            let name = format!("{}/{}", institution.id, source.id);
            if !TEXTS.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let places = Places::new(origin.parent().unwrap(), &config.store);
            let files = readers::find_files(&source.read, &places).unwrap();
            let mut hasher = blake3::Hasher::new();
            for document in readers::open(institution, source, files, Arc::default()) {
                hasher.update(text_of(document.unwrap()).as_bytes());
                hasher.update(&[0]);
            }
            digests.insert(name, hasher.finalize().to_hex().to_string());
        }
    }
    let expected = TEXTS.map(|(name, digest)| (name.to_owned(), digest.to_owned()));
    assert_eq!(digests, BTreeMap::from(expected));
}
