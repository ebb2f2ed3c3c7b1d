//! From the run's configuration and an assignment to a running compute thread.
//!
//! Everything that holds a tensor is made on that thread and stays there. State comes to the other
//! ranks from the lead rank, by broadcast, so that all begin equal.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::collective::Collective;
use crate::collective::gloo::{Gloo, Seat, connect_store, serve_store};
use crate::collective::solo::Solo;
use crate::config::RunConfig;
use crate::corpus::TOKENIZER_FILE;
use crate::corpus::new_tokens::NEW_TOKENS_FILE;
use crate::corpus::random::keyed_number;
use crate::data::Corpus;
use crate::data::blueprint::Blueprint;
use crate::data::held_out::HeldOutSpec;
use crate::data::prefetch::Prefetcher;
use crate::evaluate::HeldOut;
use crate::ids::Rank;
use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::parameters::Parameters;
use crate::preflight::{
    ledger_of_start, model_precision, new_tokens, open_blueprint, threads_per_rank,
};
use crate::run::progress::Progress;
use crate::train::compute::{CommandQueue, Ended, Inbox, Intervals, Outbox, Position, Trainer};
use crate::train::optimizer::StableAdamW;
use crate::train::snapshot::{Snapshot, Snapshots};
use crate::train::state::Restored;
use crate::train::step::{Engine, StepRules, device, optimizer_parameters};
use crate::wire::Assignment;
use crate::worker::weights::{Beginning, load_tensors, spread};

/// Orders that may wait for the compute thread; operators give a handful.
const INBOX_MAX: usize = 64;
/// Batches that are built beyond the one in use.
const BATCHES_AHEAD: usize = 1;

/// What the compute thread is started with.
pub(super) struct Launch {
    pub(super) config: RunConfig,
    pub(super) assignment: Assignment,
    pub(super) restored: Option<Restored>,
    pub(super) outbox: mpsc::Sender<Outbox>,
    pub(super) uploads: mpsc::Sender<Snapshot>,
}

/// Starts the compute thread. Its end, or its error, comes through the returned receiver.
pub(super) fn start_compute(
    launch: Launch,
) -> Result<(SyncSender<Inbox>, oneshot::Receiver<Result<Ended>>)> {
    let (inbox, receiver) = sync_channel(INBOX_MAX);
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("cohort-compute".to_owned())
        .spawn(move || {
            // Nobody waits any more when the process is on its way out.
            let _ = done.send(launch.run(receiver));
        })
        .context("cannot start the compute thread")?;
    Ok((inbox, ended))
}

impl Launch {
    fn run(self, inbox: Receiver<Inbox>) -> Result<Ended> {
        let threads = threads_per_rank(&self.config);
        crate::torch::cpu::set_threads(threads);
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(threads.get()))
            .thread_name(|index| format!("cohort-data-{index}"))
            .build_global()
            .context("cannot start the data threads")?;
        let blueprint = open_blueprint(&self.config)?;
        let collective = self.form(&inbox)?;
        let engine_model = self
            .config
            .model
            .resolve(&blueprint.corpus.manifest().tokenizer)?;
        let mut engine = self.engine(&blueprint, &engine_model)?;
        let position = self.position(&blueprint, &mut engine)?;
        spread(&mut engine, collective.as_ref())?;
        // What follows may fetch gigabytes from the corpus's storage, with deadlines of its own.
        self.outbox
            .blocking_send(Outbox::Ready)
            .context("the worker's shell has ended")?;
        let held_out = self.held_out(&blueprint)?;
        let snapshots = self.snapshots(&blueprint)?;
        let builder = blueprint.clone();
        let prefetcher = Prefetcher::start(BATCHES_AHEAD, move |request| builder.build(request))?;
        let Self {
            config,
            assignment,
            outbox,
            uploads,
            ..
        } = self;
        // The trainer's own handle is the last one: the uploader ends when the trainer does.
        drop(uploads);
        // Of the checkpoint that this life began from; a branch has none of its own yet.
        let saved = (!position.fresh).then_some(position.progress.step);
        let trainer = Trainer {
            rank: assignment.rank,
            generation: assignment.generation,
            blueprint,
            prefetcher,
            held_out,
            precision: model_precision(config.precision),
            intervals: Intervals {
                checkpoint_steps: config.checkpoints.every_steps,
                evaluation_steps: config.evaluation.every_steps,
            },
            engine,
            collective,
            position,
            commands: CommandQueue {
                inbox,
                replay: assignment.replay,
                waiting: VecDeque::new(),
            },
            outbox,
            snapshots,
            owed: None,
            saved,
        };
        trainer.run()
    }

    /// Connects the ranks of the generation.
    fn form(&self, inbox: &Receiver<Inbox>) -> Result<Box<dyn Collective>> {
        let Assignment {
            rank,
            world,
            generation,
            ..
        } = self.assignment;
        if world == 1 {
            return Ok(Box::new(Solo::default()));
        }
        let timeouts = &self.config.timeouts;
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let store = if rank == Rank(0) {
            let store = serve_store(host, timeouts.gather)?;
            let address = store.address().to_string();
            self.outbox
                .blocking_send(Outbox::RendezvousReady { address })
                .context("the worker's shell has ended")?;
            store
        } else {
            connect_store(self.lead_address(inbox)?, timeouts.gather)?
        };
        let seat = Seat {
            generation,
            rank,
            world,
            host,
            connect_timeout: timeouts.gather,
            operation_timeout: timeouts.collective,
        };
        Ok(Box::new(Gloo::form(&store, seat)?))
    }

    fn lead_address(&self, inbox: &Receiver<Inbox>) -> Result<SocketAddr> {
        let limit = self.config.timeouts.gather;
        match inbox.recv_timeout(limit) {
            Ok(Inbox::Rendezvous(address)) => address
                .parse()
                .with_context(|| format!("{address} is no address")),
            Ok(Inbox::Command(_)) => bail!("a command came before the ranks were connected"),
            Err(_) => bail!("the lead rank did not say where to connect within {limit:?}"),
        }
    }

    /// The model and the optimizer that the run begins from, or zeros where the lead rank or a
    /// checkpoint gives the numbers.
    fn engine(&self, blueprint: &Blueprint, config: &ModelConfig) -> Result<Engine> {
        let settings = &self.config;
        let fresh = self.restored.is_none() && self.assignment.rank == Rank(0);
        let beginning = if fresh {
            Some(Beginning {
                settings,
                config,
                new_tokens: new_tokens(&blueprint.corpus, &settings.start)?,
            })
        } else {
            None
        };
        let parameters = match &beginning {
            Some(beginning) => beginning.parameters()?,
            None => Parameters::build(config, device(), |each| {
                anyhow::Ok(tch::Tensor::zeros(
                    each.shape.as_slice(),
                    (tch::Kind::Float, device()),
                ))
            })?,
        };
        let model = Model {
            config: config.clone(),
            parameters,
        };
        let mut optimizer = StableAdamW::new(
            optimizer_parameters(&model),
            settings.optimizer.clone(),
            settings.learning_rate_max(),
        )?;
        if let Some(beginning) = &beginning {
            beginning.moments(&mut optimizer)?;
        }
        let rules = StepRules {
            precision: model_precision(settings.precision),
            micro_rows: settings.batch.micro_rows as usize,
            dropout: settings.model.attention_output_dropout,
            dropout_seed: keyed_number(settings.seed, "dropout", &[]),
        };
        Ok(Engine::new(model, optimizer, rules))
    }

    /// Where the run stands, from its checkpoint or from the beginning.
    fn position(&self, blueprint: &Blueprint, engine: &mut Engine) -> Result<Position> {
        let schedule = &blueprint.schedule;
        let Some(restored) = &self.restored else {
            return Ok(Position {
                progress: Progress::new(schedule),
                ledger: ledger_of_start(&self.config.start)?,
                rows: 0,
                fresh: true,
            });
        };
        let progress = restored.progress(blueprint)?;
        let Restored {
            state,
            ledger,
            origin,
            tensors,
            branch,
        } = restored;
        if let Some(tensors) = tensors {
            load_tensors(engine, tensors, origin)?;
        }
        engine.optimizer.set_steps(state.optimizer_steps);
        Ok(Position {
            progress,
            ledger: ledger.clone(),
            rows: state.rows,
            fresh: *branch,
        })
    }

    fn held_out(&self, blueprint: &Blueprint) -> Result<HeldOut> {
        let Assignment { rank, world, .. } = self.assignment;
        let spec = HeldOutSpec {
            row_tokens: blueprint.row_tokens,
            tokens_max_per_source: self.config.evaluation.tokens_per_source,
        };
        HeldOut::read(&blueprint.corpus, spec, |row| {
            row.row.0 % u64::from(world) == u64::from(rank.0)
        })
    }

    /// The lead rank alone takes checkpoints.
    fn snapshots(&self, blueprint: &Blueprint) -> Result<Option<Snapshots>> {
        if self.assignment.rank != Rank(0) {
            return Ok(None);
        }
        Ok(Some(Snapshots {
            run: self.config.name.clone(),
            tokenizer: blueprint.corpus.manifest().tokenizer.digest.clone(),
            constant_files: tokenizer_files(&blueprint.corpus)?,
            uploads: self.uploads.clone(),
        }))
    }
}

/// The tokenizer as it lies beside the shards, with what says where its new tokens come from.
fn tokenizer_files(corpus: &Corpus) -> Result<Vec<(String, Bytes)>> {
    let grown = corpus.manifest().tokenizer.new_tokens.is_some();
    [TOKENIZER_FILE, "tokenizer_config.json"]
        .into_iter()
        .chain(grown.then_some(NEW_TOKENS_FILE))
        .map(|name| Ok((name.to_owned(), Bytes::from(corpus.read_file(name)?))))
        .collect()
}
