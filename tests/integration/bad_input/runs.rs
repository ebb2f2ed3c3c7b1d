//! Run files that are wrong, and runs whose parts do not fit: refused before anything starts.

use std::fs;
use std::net::TcpListener;

use super::{Place, RUN, run};

/// What is said of a run file that cannot be used.
fn config_error(yaml: &str) -> String {
    let place = Place::new();
    place.write("run.yaml", yaml);
    place.refused(&["train", "run.yaml"])
}

#[test]
fn misspelled_and_missing_fields() {
    insta::assert_snapshot!(config_error(&run("micro_rows", "microrows")), @r"
    error: run.yaml:14:34: unknown field `microrows`, expected one of row_tokens, rows, micro_rows
       |
    14 | batch: {row_tokens: 64, rows: 4, microrows: 2}
       |                                  ^
    ");
    insta::assert_snapshot!(config_error(&run("    mask_rate", "    mask-rate")), @r"
    error: run.yaml:19:5: unknown field `mask-rate`, expected one of name, tokens, mixture, max_epochs, mask_rate, learning_rate, warmup_tokens, shape, decay_tokens, floor, rows_warmup
       |
    19 |     mask-rate: 0.3
       |     ^
    ");
    insta::assert_snapshot!(config_error(&run("seed: 1\n", "")), @r"
    error: run.yaml:14:1: `seed` is missing from the fields that end here
       |
    14 | phases:
       | ^
    ");
    insta::assert_snapshot!(config_error(&run("seed: 1\n", "seed: 1\nseed: 2\n")), @r"
    error: run.yaml:5:1: `seed` stands here twice
      |
    5 | seed: 2
      | ^
    ");
    insta::assert_snapshot!(config_error(&run("mixture: all", "mixture: everything")), @r"
    error: run.yaml:18:14: unknown variant `everything`, expected one of all, epochs, weights
       |
    18 |     mixture: everything
       |              ^
    ");
    let empty = config_error("");
    insta::assert_snapshot!(empty, @"error: run.yaml:1:1: the file ends where fields are expected");
}

#[test]
fn wrong_types() {
    insta::assert_snapshot!(config_error(&run("seed: 1", "seed: one")), @r"
    error: run.yaml:4:7: expected a whole number, 0 or more
      |
    4 | seed: one
      |       ^
    ");
    insta::assert_snapshot!(config_error(&run("ranks: 1", "ranks: -1")), @r"
    error: run.yaml:5:8: expected a whole number, 0 or more
      |
    5 | ranks: -1
      |        ^
    ");
    insta::assert_snapshot!(config_error(&run("mask_rate: 0.3", "mask_rate: much")), @r"
    error: run.yaml:19:16: expected a number
       |
    19 |     mask_rate: much
       |                ^
    ");
    insta::assert_snapshot!(config_error(&run("{url: runs}", "runs")), @r"
    error: run.yaml:2:8: expected fields, as in `name: value`
      |
    2 | store: runs
      |        ^
    ");
    let every = format!("{RUN}checkpoints: {{every: 60}}\n");
    insta::assert_snapshot!(config_error(&every), @r"
    error: run.yaml:21:15: expected a duration such as 90s or 30m
       |
    21 | checkpoints: {every: 60}
       |               ^
    ");
    let listen = format!("{RUN}listen: nowhere\n");
    insta::assert_snapshot!(config_error(&listen), @r"
    error: run.yaml:21:9: expected an address such as 127.0.0.1:7077
       |
    21 | listen: nowhere
       |         ^
    ");
}

#[test]
fn impossible_values() {
    insta::assert_snapshot!(config_error(&run("hidden_size: 32", "hidden_size: 33")), @r"
    error: run.yaml:9:16: model.hidden_size: hidden_size 33 is not divisible by attention_heads 2
      |
    9 |   hidden_size: 33
      |                ^
    ");
    insta::assert_snapshot!(config_error(&run("mask_rate: 0.3", "mask_rate: 1.5")), @r"
    error: run.yaml:19:16: phases[0].mask_rate: must be at most 0.9
       |
    19 |     mask_rate: 1.5
       |                ^
    ");
    insta::assert_snapshot!(config_error(&run("rows: 4", "rows: 0")), @r"
    error: run.yaml:14:31: batch.rows: must be at least 1
       |
    14 | batch: {row_tokens: 64, rows: 0, micro_rows: 2}
       |                               ^
    ");
    insta::assert_snapshot!(config_error(&run("micro_rows: 2", "micro_rows: 5")), @r"
    error: run.yaml:14:46: batch.micro_rows: must be at most the 4 rows of a step
       |
    14 | batch: {row_tokens: 64, rows: 4, micro_rows: 5}
       |                                              ^
    ");
    insta::assert_snapshot!(config_error(&run("url: runs", "url: ftp://runs")), @r"
    error: run.yaml:2:14: store.url: the store ftp://runs: no store is known by such an address
      |
    2 | store: {url: ftp://runs}
      |              ^
      hint: use a folder's path, or an address that begins with s3://, gs://, az:// or file://
    ");
    insta::assert_snapshot!(config_error(&run("name: tiny", "name: ../tiny")), @r"
    error: run.yaml:1:7: name: must be 1 to 80 letters, digits, '.', '_' or '-', and begin with a letter or a digit
      |
    1 | name: ../tiny
      |       ^
    ");
    let open = format!("{RUN}listen: 0.0.0.0:7077\n");
    insta::assert_snapshot!(config_error(&open), @r"
    error: run.yaml:21:9: listen: must be a loopback address such as 127.0.0.1:7077; without TLS and a token the coordinator serves this machine only
       |
    21 | listen: 0.0.0.0:7077
       |         ^
    ");
}

#[test]
fn every_broken_rule_is_shown_at_once() {
    let twice = format!(
        "{}  - {{name: stable, mixture: all, mask_rate: 0.3, learning_rate: 2}}\n",
        run("sliding_window: 16", "sliding_window: 15")
    );
    insta::assert_snapshot!(config_error(&twice), @r#"
    error: run.yaml has 3 problems
    run.yaml:12:19: model.sliding_window: sliding_window 15 is odd, half of it lies on each side of a token
       |
    12 |   sliding_window: 15
       |                   ^
    run.yaml:16:3: phases: the name "stable" is used twice
       |
    16 |   - name: stable
       |   ^
    run.yaml:21:65: phases[1].learning_rate: must be at most 1
       |
    21 |   - {name: stable, mixture: all, mask_rate: 0.3, learning_rate: 2}
       |                                                                 ^
    "#);
}

/// What `cohort plan` and `cohort train` say of a run in a place with a corpus: the same.
fn run_error(place: &Place, yaml: &str) -> String {
    place.write("run.yaml", yaml);
    let stderr = place.refused(&["plan", "run.yaml"]);
    assert_eq!(stderr, place.refused(&["train", "run.yaml"]));
    stderr
}

#[test]
fn corpora_that_do_not_fit() {
    let place = Place::with_corpus();
    insta::assert_snapshot!(run_error(&place, &run("corpus: corpus", "corpus: nowhere")), @r"
    error: cannot read the corpus manifest DIR/nowhere/manifest.json: No such file or directory (os error 2)
      hint: run cohort prepare first
    ");
    insta::assert_snapshot!(run_error(&place, &run("row_tokens: 64", "row_tokens: 32")), @r"
    error: batch.row_tokens is 32, but the corpus DIR/corpus has chunks of up to 64 tokens
      hint: raise row_tokens, or prepare the corpus with max_length 32
    ");
    let mixture = run("mixture: all", "mixture: {epochs: {clinic/note: 2}}");
    insta::assert_snapshot!(run_error(&place, &mixture), @r#"
    error: phase "stable": the mixture names `clinic/note`, which no source of corpus `tiny` matches
      hint: the corpus has `clinic/notes`; a pattern is `institution/source`, `institution/*` or `*`
    "#);
    let capped = run(
        "mixture: all",
        "mixture: all\n    max_epochs: {clinic/*: 0.5}",
    );
    insta::assert_snapshot!(run_error(&place, &capped), @r#"
    error: phase "stable": source `clinic/notes` would be read 0.65 times, more often than `max_epochs` allows, 0.5
      hint: shorten the phase, give the source a smaller part of the mixture, or raise `max_epochs`
    "#);
}

#[test]
fn shards_with_a_wrong_digest() {
    // Found when the shard is first read: a corpus may be larger than what can be read at a start.
    for shard in ["train", "held-out"] {
        let place = Place::with_corpus();
        let path = place.path(&format!("corpus/clinic/notes/{shard}-00000.arrow"));
        let mut bytes = fs::read(&path).unwrap();
        let expected = blake3::hash(&bytes).to_hex();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let found = blake3::hash(&bytes).to_hex();
        fs::write(&path, &bytes).unwrap();
        place.write("run.yaml", RUN);
        let outcome = place.cohort(&["train", "run.yaml"]);
        assert_eq!(outcome.code, Some(1));
        let expected = format!(
            "source `clinic/notes`, file DIR/corpus/clinic/notes/{shard}-00000.arrow: the file's \
             digest is {found}, the manifest says {expected}\n  \
             hint: delete the file, then run cohort prepare again\n"
        );
        assert!(outcome.stderr.ends_with(&expected), "{}", outcome.stderr);
    }
}

#[test]
fn a_tokenizer_that_is_not_the_manifests() {
    let place = Place::with_corpus();
    let path = place.path("corpus/tokenizer.json");
    let mut tokenizer = fs::read(&path).unwrap();
    let expected = blake3::hash(&tokenizer).to_hex().to_string();
    tokenizer.push(b'\n');
    let found = blake3::hash(&tokenizer).to_hex().to_string();
    fs::write(&path, tokenizer).unwrap();
    let stderr = run_error(&place, RUN)
        .replace(&found, "FOUND")
        .replace(&expected, "EXPECTED");
    insta::assert_snapshot!(stderr, @r"
    error: DIR/corpus/tokenizer.json has digest FOUND, but the corpus was prepared with tokenizer EXPECTED
      hint: put the right tokenizer.json back, or run cohort prepare again
    ");
}

#[test]
fn weights_that_do_not_fit() {
    let place = Place::with_corpus();
    let start = |what: &str| {
        place.write("run.yaml", format!("{RUN}start: {what}\n"));
        place.refused(&["train", "run.yaml"])
    };
    insta::assert_snapshot!(start("{hugging_face: nowhere}"), @r"
    error: cannot read DIR/nowhere/config.json: No such file or directory (os error 2)
      hint: name a Hugging Face model directory
    ");
    insta::assert_snapshot!(start("{composer: nowhere.pt}"), @r"
    error: cannot read DIR/nowhere.pt: No such file or directory (os error 2)
      hint: name a checkpoint file of Composer, `….pt`
    ");
    insta::assert_snapshot!(start("{huggingface: nowhere}"), @r"
    error: run.yaml:21:9: unknown variant `huggingface`, expected one of random, hugging_face, tile, composer, composer_weights
       |
    21 | start: {huggingface: nowhere}
       |         ^
    ");
}

#[test]
fn stores_that_cannot_be_written() {
    let place = Place::with_corpus();
    place.write("file", "");
    let store = |url: &str| {
        place.write("run.yaml", run("url: runs", &format!("url: {url}")));
        place.refused(&["train", "run.yaml"])
    };
    insta::assert_snapshot!(store("file"), @r"
    error: the store DIR/file is a file, not a folder
      hint: name a folder; it is created where it is missing
    ");
    insta::assert_snapshot!(store("file/runs"), @r"
    error: cannot create the store's folder DIR/file/runs: Not a directory (os error 20)
      hint: name a folder that this user may write to
    ");
    // No user may make a folder here, whatever the rights.
    insta::assert_snapshot!(store("/proc/runs"), @r"
    error: cannot create the store's folder /proc/runs: No such file or directory (os error 2)
      hint: name a folder that this user may write to
    ");
}

#[test]
fn a_port_in_use() {
    let place = Place::with_corpus();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.write("run.yaml", format!("{RUN}listen: {address}\n"));
    for command in ["train", "coordinate"] {
        let stderr = place
            .refused(&[command, "run.yaml"])
            .replace(&address, "ADDRESS");
        insta::allow_duplicates! {
            insta::assert_snapshot!(stderr, @r"
            error: cannot listen on ADDRESS: Address already in use (os error 98)
              hint: choose another port in `listen`, or 0 for a free one
            ");
        }
    }
}
