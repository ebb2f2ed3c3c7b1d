//! Runs that cannot begin or continue, each with the whole message that the operator gets.

use std::fs;
use std::net::TcpListener;

use cohort::corpus::{Manifest, TOKENIZER_FILE};
use serde_json::json;

use crate::support::run::{Corpus, Run, checkpoint_path, stable};

fn manifest(corpus: &Corpus) -> Manifest {
    let text = fs::read(corpus.path().join("manifest.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let mut run = Run::new(json!({"phases": [stable(2_000)]}));
    run.train();
    let newest = run.manifests().pop().unwrap().step;
    let checkpoint = checkpoint_path(&run, newest);
    let longer = json!({"phases": [stable(4_000)]});
    run.change(longer);

    run.change(json!({"model": {"layers": 3}}));
    assert_eq!(
        run.error(),
        format!(
            "the checkpoint {checkpoint} is of another architecture: layers is 2, expected 3\n  \
             hint: set these fields under `model` to the checkpoint's values, or start from \
             another checkpoint"
        )
    );
    run.change(json!({"model": {"layers": 2}}));

    run.change(json!({"seed": 18}));
    assert_eq!(
        run.error(),
        format!(
            "{checkpoint} cannot be continued in phase \"stable\": the corpus, the seed, the \
             mixture or row_tokens have changed, so its rows are others\n  \
             hint: restore them, or start another run with `start: {{hugging_face: …}}` from its \
             weights"
        )
    );
    run.change(json!({"seed": 17}));

    let other = Corpus::prepare(600);
    let (had, has) = (
        manifest(run.corpus()).tokenizer.digest,
        manifest(&other).tokenizer.digest,
    );
    run.change(json!({"corpus": other.path()}));
    assert_eq!(
        run.error(),
        format!(
            "{checkpoint} was trained with tokenizer {had}, the corpus was prepared with {has}\n  \
             hint: prepare the corpus with the tokenizer.json that lies in the checkpoint"
        )
    );

    // Weights alone are refused the same way.
    let fresh = Run::new(json!({
        "start": {"hugging_face": checkpoint},
        "model": {"hidden_size": 48},
    }));
    assert_eq!(
        fresh.error(),
        format!(
            "the checkpoint {checkpoint} is of another architecture: hidden_size is 64, expected \
             48\n  \
             hint: set these fields under `model` to the checkpoint's values, or start from \
             another checkpoint"
        )
    );
}

#[test]
fn a_corpus_that_was_touched_is_refused() {
    let corpus = Corpus::prepare(512);
    let run = Run::new(json!({"corpus": corpus.path(), "ranks": 1}));
    let described = manifest(&corpus);
    let stored = &described.institutions[1].sources[0].train.shards[0].stored;
    let shard = corpus.path().join(&stored.file);
    let good = fs::read(&shard).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&shard, &bad).unwrap();
    let found = blake3::hash(&bad).to_hex();
    assert_eq!(
        run.error(),
        format!(
            "source `south/radiology`, file {}: the file's digest is {found}, \
             the manifest says {}\n  hint: delete the file, then run cohort prepare again",
            shard.display(),
            stored.digest
        )
    );
    assert!(run.manifests().is_empty(), "no step was taken");
    fs::write(&shard, &good).unwrap();

    let tokenizer = corpus.path().join(TOKENIZER_FILE);
    let mut text = fs::read(&tokenizer).unwrap();
    text.push(b'\n');
    fs::write(&tokenizer, &text).unwrap();
    let found = blake3::hash(&text).to_hex();
    assert_eq!(
        run.error(),
        format!(
            "{} has digest {found}, but the corpus was prepared with tokenizer {}\n  \
             hint: put the right tokenizer.json back, or run cohort prepare again",
            tokenizer.display(),
            described.tokenizer.digest
        )
    );
}

#[test]
fn a_port_in_use_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let run = Run::new(json!({"listen": address}));
    assert_eq!(
        run.start_training().wait().error(),
        format!(
            "cannot listen on {address}: Address already in use (os error 98)\n  \
             hint: choose another port in `listen`, or 0 for a free one"
        )
    );
    assert!(run.keys().is_empty(), "nothing was begun");
}

#[test]
fn commands_to_nobody_are_refused() {
    let run = Run::new(json!({}));
    let nowhere = run.store().address().to_owned();
    let hint = "hint: name the run's folder, its YAML, or its coordinator's http:// address";
    for command in ["decay", "checkpoint", "pause", "resume", "stop", "status"] {
        assert_eq!(
            run.operate(&[command]).error(),
            format!("there is no run at {nowhere}\n  {hint}")
        );
    }
    let missing = run.yaml().with_file_name("missing");
    let missing = missing.to_str().unwrap();
    assert_eq!(
        run.start(&["stop", "--run", missing]).wait().error(),
        format!("there is no run at {missing}\n  {hint}")
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(
        run.start(&["stop", "--run", &url]).wait().error(),
        format!(
            "the coordinator of {url} does not answer at {url}\n  \
             hint: it may have died; continue the run with `cohort train RUN.yaml`"
        )
    );

    // A run whose coordinator was killed.
    let mut life = run.start_training();
    run.await_step(&mut life, 12);
    run.kill(life);
    let address: serde_json::Value = serde_json::from_slice(&run.read("coordinator.json")).unwrap();
    assert_eq!(
        run.operate(&["stop"]).error(),
        format!(
            "the coordinator of {nowhere} does not answer at {}\n  \
             hint: it may have died; continue the run with `cohort train RUN.yaml`",
            address["url"].as_str().unwrap()
        )
    );
}
