//! Runs as an operator has them: a small corpus, a YAML, `cohort train`, and what it leaves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cohort::config;
use cohort::coordinator::claim;
use cohort::corpus::random::keyed_number;
use cohort::ids::Step;
use cohort::prepare;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::progress::Silent;
use cohort::run::event::{Entry, GenerationRecord};
use cohort::run::goodput::Recovery;
use cohort::store::checkpoint::Checkpoints;
use cohort::store::manifest::CheckpointManifest;
use cohort::store::settings::StoreSettings;
use cohort::store::{Store, layout};
use cohort::telemetry::{Evaluation, StatusView, StepMetrics, wall_clock};
use cohort::wire;
use cohort::wire::proto::StatusRequest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::namespace::Namespace;
use crate::support::process::{Ended, Process, is_rank, poll};
use crate::support::s3::S3Server;

/// Where the tests' own requests and servers live; the tests themselves are plain threads.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SHARED_CORPUS: Mutex<Weak<Corpus>> = Mutex::new(Weak::new());
static RUNS: AtomicU32 = AtomicU32::new(0);

/// The only file names in a checkpoint whose bytes do not depend on when commands came.
const EXACT_FILES: [&str; 5] = [
    layout::MODEL_FILE,
    layout::OPTIMIZER_FILE,
    layout::LEDGER_FILE,
    layout::MODEL_CONFIG_FILE,
    "tokenizer.json",
];

pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// A prepared corpus: three institutions, four sources, about 75,000 tokens.
pub struct Corpus {
    folder: TempDir,
}

impl Corpus {
    /// The corpus of all tests that run at this moment.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED_CORPUS.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let corpus = Arc::new(Self::prepare(512));
            *shared = Arc::downgrade(&corpus);
            corpus
        })
    }

    pub fn prepare(vocab_size: u32) -> Self {
        Self::prepare_in_shards(vocab_size, 64 << 20)
    }

    /// The same in shards of so many bytes.
    pub fn prepare_in_shards(vocab_size: u32, shard_bytes: u64) -> Self {
        Self::prepare_with(vocab_size, shard_bytes, &[])
    }

    /// The same with a source `west/scans` of a few documents that are noise.
    pub fn prepare_with_noise(documents: &[String]) -> Self {
        Self::prepare_with(512, 64 << 20, documents)
    }

    fn prepare_with(vocab_size: u32, shard_bytes: u64, noise: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = |id: &str, style: &str, documents: u32| {
            let read = json!({"synthetic": {"style": style, "documents": documents}});
            json!({"id": id, "licence": "none", "read": read})
        };
        let mut yaml = json!({
            "name": "tiny",
            "output": "corpus",
            "tokenizer": {"train": {"vocab_size": vocab_size}},
            "max_length": 96,
            "held_out": 0.1,
            "shard_bytes": shard_bytes,
            "institutions": [
                {"id": "north", "name": "North", "sources": [
                    source("triage", "triage_line", 300),
                    source("progress", "progress_note", 60),
                ]},
                {"id": "south", "name": "South", "sources": [
                    source("radiology", "radiology_report", 60),
                ]},
                {"id": "east", "name": "East", "sources": [source("visits", "dialogue", 30)]},
            ],
        });
        if !noise.is_empty() {
            let lines = noise
                .iter()
                .map(|text| format!("{}\n", json!({"text": text})));
            let file = folder.path().join("scans.jsonl");
            fs::write(&file, lines.collect::<String>()).unwrap();
            let read = json!({"json_lines": {"path": "scans.jsonl", "text": "text"}});
            let sources = json!([{"id": "scans", "licence": "none", "read": read}]);
            let west = json!({"id": "west", "name": "West", "sources": sources});
            yaml["institutions"].as_array_mut().unwrap().push(west);
        }
        let origin = folder.path().join("corpus.yaml");
        fs::write(&origin, yaml.to_string()).unwrap();
        let config: CorpusConfig = config::load(&origin).unwrap();
        prepare::run(&config, &origin, &mut Silent).unwrap();
        Self { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("corpus")
    }
}

/// A run: its YAML, its store, and the processes of its lives.
pub struct Run {
    pub name: String,
    folder: TempDir,
    corpus: Arc<Corpus>,
    settings: Value,
    store: Store,
    environment: Vec<(String, String)>,
    processes: AtomicU32,
    /// Where its processes are apart.
    namespace: Option<Arc<Namespace>>,
}

/// The settings that every test starts from: a model of two layers, five rows a step, which two
/// and three ranks cannot share out evenly, 58 steps of a stable phase and as many of a decay whose
/// mixture leaves one source out.
fn settings(name: &str, corpus: &Path) -> Value {
    json!({
        "name": name,
        "store": {"url": "runs"},
        "corpus": corpus,
        "seed": 17,
        "ranks": 1,
        "threads_per_rank": 1,
        "model": {
            "preset": "modernbert-base",
            "layers": 2,
            "hidden_size": 64,
            "attention_heads": 2,
            "intermediate_size": 64,
            "sliding_window": 32,
            "max_positions": 128,
            "attention_output_dropout": 0.1,
        },
        "batch": {"row_tokens": 128, "rows": 5, "micro_rows": 2},
        "phases": [stable(30_000), decay(30_000)],
        "checkpoints": {"every_steps": 10, "every": null, "keep": {"keep_last": 100}},
        "evaluation": {"tokens_per_source": 2_000},
    })
}

pub fn stable(tokens: u64) -> Value {
    json!({
        "name": "stable",
        "tokens": tokens,
        "mixture": "all",
        "mask_rate": 0.3,
        "learning_rate": 0.004,
        "warmup_tokens": 3_000,
    })
}

pub fn decay(tokens: u64) -> Value {
    json!({
        "name": "decay",
        "tokens": tokens,
        "mixture": {"weights": {"north/triage": 2, "south/*": 2, "east/visits": 3}},
        "mask_rate": 0.15,
        "learning_rate": 0.004,
        "shape": "one_minus_sqrt",
        "floor": 0.01,
    })
}

/// Lays `patch` over `value`: objects key by key, everything else whole.
fn merge(value: &mut Value, patch: Value) {
    match (value, patch) {
        (Value::Object(fields), Value::Object(patches)) => {
            for (name, patch) in patches {
                merge(fields.entry(name).or_insert(Value::Null), patch);
            }
        }
        (value, patch) => *value = patch,
    }
}

impl Run {
    /// A run that differs from the common settings by `patch`, in a folder of its own.
    pub fn new(patch: Value) -> Self {
        Self::on(Corpus::shared(), patch)
    }

    /// The same on another corpus.
    pub fn on(corpus: Arc<Corpus>, patch: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed));
        let mut settings = settings(&name, &corpus.path());
        merge(&mut settings, patch);
        let runs = StoreSettings::at(folder.path().join("runs").to_str().unwrap());
        let store = Store::open(&runs).unwrap().child(&name).unwrap();
        let run = Self {
            name,
            folder,
            corpus,
            settings,
            store,
            environment: Vec::new(),
            processes: AtomicU32::new(0),
            namespace: None,
        };
        run.write_yaml();
        run
    }

    /// The same with its store on an S3 server.
    pub fn on_s3(server: &S3Server, patch: Value) -> Self {
        let mut run = Self::new(patch);
        run.settings["store"] = serde_json::to_value(server.settings("some/runs")).unwrap();
        run.store = server.store("some/runs").child(&run.name).unwrap();
        run.set_environment(server);
        run.write_yaml();
        run
    }

    /// Has the run's processes in a network of their own.
    pub fn put_into(&mut self, namespace: &Arc<Namespace>) {
        self.namespace = Some(Arc::clone(namespace));
    }

    /// Gives the run's processes the credentials of a server.
    pub fn set_environment(&mut self, server: &S3Server) {
        self.environment = server
            .environment()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    }

    /// The same run as it stands in its folder, in another one.
    pub fn copy(&self) -> Self {
        let mut copy = Self::new(json!({}));
        copy.name.clone_from(&self.name);
        copy.settings.clone_from(&self.settings);
        copy.store = Store::open(&StoreSettings::at(
            copy.folder.path().join("runs").to_str().unwrap(),
        ))
        .unwrap()
        .child(&copy.name)
        .unwrap();
        for key in self.keys() {
            let bytes = self.read(&key);
            wait_for(copy.store.put_large(&key, bytes)).unwrap();
        }
        copy.write_yaml();
        copy
    }

    /// Changes the YAML between two lives of the run.
    pub fn change(&mut self, patch: Value) {
        merge(&mut self.settings, patch);
        self.write_yaml();
    }

    /// What the program says where it refuses the run.
    #[track_caller]
    pub fn refused(&self, command: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_cohort"))
            .arg(command)
            .arg(self.yaml())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// The YAML, written as JSON, which is YAML too.
    fn write_yaml(&self) {
        fs::write(self.yaml(), self.settings.to_string()).unwrap();
    }

    pub fn yaml(&self) -> PathBuf {
        self.folder.path().join("run.yaml")
    }

    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts `cohort` with some arguments.
    pub fn start(&self, arguments: &[&str]) -> Process {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let output = self.folder.path().join(format!("process-{number}"));
        let program = env!("CARGO_BIN_EXE_cohort");
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        command.args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::spawn(command, &output)
    }

    pub fn start_training(&self) -> Process {
        self.start(&["train", self.yaml().to_str().unwrap()])
    }

    /// Trains to the end.
    #[track_caller]
    pub fn train(&self) -> Ended {
        self.start_training().wait().good()
    }

    /// The error that training ends with, less the rank that found it out, where one did.
    #[track_caller]
    pub fn error(&self) -> String {
        let ended = self.start_training().wait();
        let error = ended.error();
        match error.split_once("): ") {
            Some((rank, rest)) if rank.starts_with("rank ") => rest.to_owned(),
            _ => error.to_owned(),
        }
    }

    /// An operator's command, as `["decay", "--tokens", "9000"]`.
    #[track_caller]
    pub fn operate(&self, command: &[&str]) -> Ended {
        let yaml = self.yaml();
        let arguments = [command, &["--run", yaml.to_str().unwrap()]].concat();
        self.start(&arguments).wait()
    }

    /// A command that takes the YAML itself, as `["plan"]`.
    #[track_caller]
    pub fn operate_on_yaml(&self, command: &[&str]) -> Ended {
        let yaml = self.yaml();
        let arguments = [command, &[yaml.to_str().unwrap()]].concat();
        self.start(&arguments).wait()
    }

    /// What the live coordinator says; nothing where none lives.
    pub fn status(&self) -> Option<StatusView> {
        if self.namespace.is_some() {
            let said = self.operate(&["status", "--json"]);
            return serde_json::from_str(&said.stdout).ok();
        }
        wait_for(async {
            let address = claim::address(&self.store).await.ok()??;
            let mut client = wire::connect(&address.url).await.ok()?;
            let reply = client.status(StatusRequest {}).await.ok()?;
            let view: StatusView = serde_json::from_str(&reply.into_inner().json).unwrap();
            (view.run == self.name).then_some(view)
        })
    }

    /// Waits for a state of the live run.
    #[track_caller]
    pub fn await_status(
        &self,
        process: &mut Process,
        awaited: &str,
        is_it: impl Fn(&StatusView) -> bool,
    ) -> StatusView {
        poll(awaited, || {
            let ended = process.has_ended();
            let found = self.status().filter(&is_it);
            assert!(
                found.is_some() || !ended,
                "{awaited}: the run ended first\n{}",
                process.stderr()
            );
            found
        })
    }

    #[track_caller]
    pub fn await_step(&self, process: &mut Process, step: u64) -> StatusView {
        self.await_status(process, &format!("step {step}"), |view| {
            newest(view) >= Some(step)
        })
    }

    /// The process of the coordinator that the store names.
    pub fn coordinator(&self) -> Option<u32> {
        let address = wait_for(claim::address(&self.store)).ok()??;
        Some(address.process)
    }

    /// What the journal says of the generations, in order.
    pub fn generations(&self) -> Vec<GenerationRecord> {
        let keys = self.keys();
        let entries = keys.iter().filter(|key| key.contains("/entry-"));
        let entry = |key: &String| serde_json::from_slice(&self.read(key)).unwrap();
        let generation = |entry| match entry {
            Entry::Generation(record) => Some(record),
            _ => None,
        };
        entries.map(entry).filter_map(generation).collect()
    }

    /// How the run went on after each generation that ended.
    pub fn recoveries(&self) -> Vec<Recovery> {
        let lines = self.lines(layout::RECOVERIES_FILE);
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        lines.iter().map(parse).collect()
    }

    /// Kills the process of `cohort train` by SIGKILL and sees every rank end by itself. The step
    /// that the run stood at.
    #[track_caller]
    pub fn kill(&self, process: Process) -> u64 {
        let view = self.status().expect("the run is alive");
        process.kill();
        for member in &view.members {
            poll("the ranks of a dead supervisor end", || {
                (!is_rank(member.process)).then_some(())
            });
        }
        newest(&view).unwrap_or(0)
    }

    /// Every key of the run's store, sorted.
    pub fn keys(&self) -> Vec<String> {
        let objects = wait_for(self.store.list("")).unwrap();
        objects.into_iter().map(|object| object.key).collect()
    }

    #[track_caller]
    pub fn read(&self, key: &str) -> Bytes {
        wait_for(self.store.get(key)).unwrap()
    }

    fn lines(&self, key: &str) -> Vec<String> {
        let text = self.read(key);
        let text = std::str::from_utf8(&text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub fn metrics(&self) -> Vec<StepMetrics> {
        let lines = self.lines(layout::METRICS_FILE);
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        lines.iter().map(parse).collect()
    }

    pub fn evaluations(&self) -> Vec<Evaluation> {
        let lines = self.lines(layout::EVALUATIONS_FILE);
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        lines.iter().map(parse).collect()
    }

    /// The lines of `metrics.jsonl` as far as they are no measurements, as text: numbers are
    /// written so that equal text is equal bits.
    pub fn trace(&self) -> Vec<String> {
        let exact = |line: &String| {
            let (exact, _) = line.split_once(",\"seconds\":").unwrap();
            exact.to_owned()
        };
        self.lines(layout::METRICS_FILE).iter().map(exact).collect()
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.store.clone())
    }

    /// The published checkpoints, oldest first.
    pub fn manifests(&self) -> Vec<CheckpointManifest> {
        let checkpoints = self.checkpoints();
        wait_for(async {
            let mut manifests = Vec::new();
            for step in checkpoints.steps().await.unwrap().published {
                manifests.push(checkpoints.manifest(step).await.unwrap());
            }
            manifests
        })
    }

    /// Bytes of the newest checkpoint's exact files.
    pub fn newest_weights(&self) -> BTreeMap<String, Bytes> {
        let steps = wait_for(self.checkpoints().steps()).unwrap();
        let newest = *steps.published.last().unwrap();
        EXACT_FILES
            .into_iter()
            .map(|name| {
                let key = layout::checkpoint_file(newest, name);
                (key.clone(), self.read(&key))
            })
            .collect()
    }

    /// Turns one byte of a file around, as a failing disk does.
    pub fn damage(&self, key: &str) {
        let mut bytes = self.read(key).to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        wait_for(self.store.put(key, bytes)).unwrap();
    }
}

/// A checkpoint's folder, as users name it.
pub fn checkpoint_path(run: &Run, step: Step) -> String {
    run.store().url(&layout::checkpoint_folder(step))
}

fn newest(view: &StatusView) -> Option<u64> {
    view.last_step.as_ref().map(|step| step.step.0)
}

/// That two runs are one to the bit: every step's line, the held-out scores, and the last
/// checkpoint's weights, moments and ledger.
#[track_caller]
pub fn assert_same_bits(one: &Run, other: &Run) {
    let (lines, others) = (one.trace(), other.trace());
    for (line, wanted) in lines.iter().zip(&others) {
        assert_eq!(line, wanted);
    }
    assert_eq!(lines.len(), others.len());
    assert_steps_are_whole(one);
    assert_eq!(one.evaluations(), other.evaluations());
    assert_same_weights(one, other);
}

/// That the newest checkpoints of two runs are equal to the bit.
#[track_caller]
pub fn assert_same_weights(one: &Run, other: &Run) {
    let (weights, others) = (one.newest_weights(), other.newest_weights());
    assert_eq!(
        weights.keys().collect::<Vec<_>>(),
        others.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in &weights {
        assert!(bytes == &others[name], "{name} differs");
    }
}

/// One line for each step, in order, from the first on.
#[track_caller]
pub fn assert_steps_are_whole(run: &Run) {
    let steps: Vec<u64> = run.metrics().iter().map(|line| line.step.0).collect();
    let wanted: Vec<u64> = (1..=steps.len() as u64).collect();
    assert_eq!(steps, wanted, "lines of metrics.jsonl");
}

/// Random numbers from a seed that a failing test shows, and that `COHORT_TEST_SEED` sets.
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    #[expect(
        clippy::disallowed_methods,
        reason = "to repeat what a failed test did"
    )]
    pub fn new() -> Self {
        let given = std::env::var("COHORT_TEST_SEED").ok();
        let seed = given.map_or_else(
            || keyed_number(0, &wall_clock(), &[]) % 1_000_000,
            |seed| seed.parse().unwrap(),
        );
        println!("COHORT_TEST_SEED={seed}");
        Self { seed, drawn: 0 }
    }

    /// A number from `from` to below `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        self.drawn += 1;
        from + keyed_number(self.seed, "chance", &[self.drawn]) % (to - from)
    }
}
