//! The compute thread of a rank: from seat to seat, with one replica of the training state.
//!
//! Everything that holds a tensor is made on that thread and stays there. A state that comes from
//! the store is made on the lead rank; the others get it by broadcast, so that all begin equal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tch::{Kind, Tensor};
use tokio::sync::{mpsc, oneshot};

use crate::collective::gloo::{Gloo, Seat as GlooSeat, connect_store, serve_store};
use crate::collective::solo::Solo;
use crate::collective::watched::Watched;
use crate::collective::{Collective, CollectiveError, Operation};
use crate::config::RunConfig;
use crate::corpus::TOKENIZER_FILE;
use crate::corpus::new_tokens::NEW_TOKENS_FILE;
use crate::corpus::random::keyed_number;
use crate::data::Corpus;
use crate::data::held_out::HeldOutSpec;
use crate::data::prefetch::Prefetcher;
use crate::ids::{Generation, Rank};
use crate::model::config::ModelConfig;
use crate::model::encoder::Model;
use crate::model::parameters::Parameters;
use crate::preflight::{
    ledger_of_start, model_precision, new_tokens, open_blueprint, threads_per_rank,
};
use crate::run::event::{Origin, Parting, Placement};
use crate::run::progress::Progress;
use crate::run::spike::Detour;
use crate::run::standing::{Activity, Seat};
use crate::telemetry::pulse::Pulse;
use crate::train::abort::Abort;
use crate::train::compute::queue::CommandQueue;
use crate::train::compute::{Inbox, Intervals, Offer, Outbox, Tools, Trainer, Turn};
use crate::train::optimizer::StableAdamW;
use crate::train::replica::{Position, Replica, StateError, share};
use crate::train::snapshot::{Snapshot, Snapshots, Uploads};
use crate::train::state::Restored;
use crate::train::step::{Engine, StepRules, device, optimizer_parameters};
use crate::worker::weights::{Beginning, load_tensors};

/// Orders that may wait for the compute thread; operators give a handful.
const INBOX_MAX: usize = 64;
/// Batches that are built beyond the one in use.
const BATCHES_AHEAD: usize = 1;
/// How long the ranks of a generation may take to find each other, once each has its state.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a wait looks whether its generation is over.
const GLANCE: Duration = Duration::from_millis(50);

/// What the compute thread is started with.
pub(super) struct Launch {
    pub(super) config: RunConfig,
    pub(super) outbox: mpsc::Sender<Outbox>,
    pub(super) snapshots: mpsc::Sender<Snapshot>,
    pub(super) uploads: Uploads,
    pub(super) pulse: Pulse,
    pub(super) abort: Abort,
}

/// Starts the compute thread, which works until its inbox is closed. An error that ends it comes
/// through the returned receiver.
pub(super) fn start_compute(
    launch: Launch,
) -> Result<(SyncSender<Inbox>, oneshot::Receiver<Result<()>>)> {
    let (inbox, receiver) = sync_channel(INBOX_MAX);
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("cohort-compute".to_owned())
        .spawn(move || {
            let outcome = ComputeThread::start(launch, receiver).and_then(ComputeThread::work);
            // Nobody waits any more when the process is on its way out.
            let _ = done.send(outcome);
        })
        .context("cannot start the compute thread")?;
    Ok((inbox, ended))
}

struct ComputeThread {
    config: RunConfig,
    model: ModelConfig,
    tools: Tools,
    replica: Option<Replica>,
}

impl ComputeThread {
    /// Opens the corpus and all that does not depend on a generation.
    fn start(launch: Launch, inbox: Receiver<Inbox>) -> Result<Self> {
        let Launch {
            config,
            outbox,
            snapshots: queue,
            uploads,
            pulse,
            abort,
        } = launch;
        let threads = threads_per_rank(&config);
        crate::torch::cpu::set_threads(threads);
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(threads.get()))
            .thread_name(|index| format!("cohort-data-{index}"))
            .build_global()
            .context("cannot start the data threads")?;
        let blueprint = open_blueprint(&config)?;
        let manifest = blueprint.corpus.manifest();
        let model = config.model.resolve(&manifest.tokenizer)?;
        let snapshots = Snapshots {
            run: config.name.clone(),
            tokenizer: manifest.tokenizer.digest.clone(),
            constant_files: tokenizer_files(&blueprint.corpus)?,
            queue,
            uploads,
        };
        let builder = blueprint.clone();
        let prefetcher = Prefetcher::start(BATCHES_AHEAD, move |request| builder.build(request))?;
        let tools = Tools {
            held_out: HeldOutSpec {
                row_tokens: blueprint.row_tokens,
                tokens_max_per_source: config.evaluation.tokens_per_source,
            },
            blueprint,
            prefetcher,
            precision: model_precision(config.precision),
            intervals: Intervals {
                checkpoint_steps: config.checkpoints.every_steps,
                evaluation_steps: config.evaluation.every_steps,
                comparison_steps: config.recovery.compare_every_steps,
            },
            spikes: config.loss_spikes.clone(),
            inbox,
            commands: CommandQueue::default(),
            outbox,
            snapshots,
            pulse,
            abort,
            rendezvous: None,
            saved: None,
        };
        Ok(Self {
            config,
            model,
            tools,
            replica: None,
        })
    }

    /// Takes one seat after the other.
    fn work(mut self) -> Result<()> {
        self.idle(None)?;
        while let Ok(message) = self.tools.inbox.recv() {
            let offer = match message {
                Inbox::Assign(offer) => *offer,
                other => {
                    self.tools.receive(other);
                    continue;
                }
            };
            let seat = offer.placement.seat;
            match self.take_seat(offer) {
                Ok(Turn::Ended { stopped }) => {
                    let standing = self.replica.as_ref().map(|held| held.position.standing());
                    self.tools.tell(Outbox::Ended {
                        seat,
                        standing: standing.context("a rank ended without a state")?,
                        stopped,
                    })?;
                }
                Ok(Turn::Regrouped) => self.idle(Some((seat.generation, Parting::Regrouped)))?,
                Ok(Turn::WentBack(spike)) => {
                    self.replica = None;
                    self.idle(Some((seat.generation, Parting::WentBack(spike))))?;
                }
                Err(error) => {
                    let parting = self.parting(&error, seat.generation).ok_or(error)?;
                    self.idle(Some((seat.generation, parting)))?;
                }
            }
        }
        Ok(())
    }

    fn idle(&self, parting: Option<(Generation, Parting)>) -> Result<()> {
        self.tools.pulse.begin(Activity::Idle);
        let held = self.replica.as_ref();
        self.tools.tell(Outbox::Idle {
            parting,
            standing: held.map(|replica| replica.position.standing()),
        })
    }

    /// How a failed turn leaves this rank, if another generation can go on from it.
    fn parting(&mut self, error: &anyhow::Error, generation: Generation) -> Option<Parting> {
        let state = error.chain().find_map(|cause| cause.downcast_ref());
        match state {
            Some(StateError::Diverged) => {
                self.replica = None;
                return Some(Parting::Diverged);
            }
            Some(StateError::Undecided) => self.replica = None,
            Some(StateError::Nobody | StateError::PeerDiverged(_)) | None => {}
        }
        let collective = error.chain().find_map(|cause| cause.downcast_ref());
        let is_broken = match collective {
            Some(CollectiveError::Refused { .. }) => false,
            Some(_) => true,
            None => state.is_some() || self.tools.abort.is_over(generation),
        };
        is_broken.then(|| Parting::Broken {
            error: crate::diagnosis::describe(error),
        })
    }

    fn take_seat(&mut self, offer: Offer) -> Result<Turn> {
        let Offer {
            placement,
            restored,
            replay,
            detours,
            published,
        } = offer;
        let Placement {
            seat,
            lineage,
            origin,
        } = placement;
        self.tools.commands = CommandQueue {
            replay,
            published,
            ..CommandQueue::default()
        };
        self.tools.pulse.begin(Activity::Loading);
        let is_of_lineage = |held: &Replica| held.position.lineage == lineage;
        if !self.replica.as_ref().is_some_and(is_of_lineage) {
            // What was saved of another history is no checkpoint of this one.
            self.tools.saved = None;
        }
        if origin == Origin::Store {
            self.replica = None;
            if seat.rank == Rank(0) {
                self.replica = Some(self.load(restored, lineage, &detours)?);
            }
        }
        self.tools.pulse.begin(Activity::Connecting);
        let collective = self.form(seat)?;
        let collective: Box<dyn Collective> =
            Box::new(Watched::new(collective, self.tools.pulse.clone()));
        self.tools
            .abort
            .enter(seat.generation, collective.abort_handle());
        self.tools.pulse.begin(Activity::Computing);
        let mut replica = self.replica.take();
        let shared = share(&mut replica, lineage, collective.as_ref(), || {
            self.empty_engine()
        });
        self.replica = replica;
        shared?;
        let Some(replica) = &mut self.replica else {
            bail!(StateError::Nobody);
        };
        self.tools.tell(Outbox::Ready {
            seat,
            standing: replica.position.standing(),
        })?;
        let trainer = Trainer {
            tools: &mut self.tools,
            replica,
            seat,
            collective,
            held_out: None,
            owed: None,
        };
        let turn = trainer.run()?;
        if let Turn::Ended { .. } = turn {
            let _during = self.tools.pulse.during(Activity::Store);
            while !self.tools.snapshots.all_stored() {
                self.expect_wanted(seat.generation)?;
                thread::sleep(GLANCE);
            }
        }
        self.tools.pulse.begin(Activity::Idle);
        Ok(turn)
    }

    /// Connects the ranks of the generation.
    fn form(&mut self, seat: Seat) -> Result<Box<dyn Collective>> {
        let Seat {
            generation,
            rank,
            world,
        } = seat;
        if world == 1 {
            return Ok(Box::new(Solo::default()));
        }
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let seat = GlooSeat {
            generation,
            rank,
            world,
            host,
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: self.config.timeouts.collective,
        };
        let lead = if rank == Rank(0) {
            None
        } else {
            Some(self.lead_address(generation)?)
        };
        let outbox = self.tools.outbox.clone();
        // A peer that dies now is waited for until the deadline, by a thread that nobody waits for
        // once the generation is given up.
        let (formed, forming) = sync_channel(1);
        thread::Builder::new()
            .name("cohort-form".to_owned())
            .spawn(move || {
                let connected = match lead {
                    Some(address) => connect_store(address, CONNECT_TIMEOUT),
                    None => serve_store(host, CONNECT_TIMEOUT).inspect(|store| {
                        let address = store.address().to_string();
                        // The shell may have ended.
                        let _ = outbox.blocking_send(Outbox::RendezvousReady {
                            generation,
                            address,
                        });
                    }),
                };
                let group = connected.and_then(|store| Gloo::form(&store, seat));
                // Given up: the group is dropped.
                let _ = formed.send(group);
            })
            .context("cannot start the thread that connects the ranks")?;
        loop {
            match forming.recv_timeout(GLANCE) {
                Ok(group) => return Ok(Box::new(group?)),
                Err(RecvTimeoutError::Timeout) => self.expect_wanted(generation)?,
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the thread that connects the ranks broke")
                }
            }
        }
    }

    fn expect_wanted(&self, generation: Generation) -> Result<()> {
        if self.tools.abort.is_over(generation) {
            let operation = Operation::Form;
            bail!(CollectiveError::Aborted { operation });
        }
        Ok(())
    }

    /// Waits until the lead rank has said where to connect.
    fn lead_address(&mut self, wanted: Generation) -> Result<SocketAddr> {
        let limit = self.config.timeouts.gather;
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            self.expect_wanted(wanted)?;
            if let Some((generation, address)) = &self.tools.rendezvous
                && *generation == wanted
            {
                return address
                    .parse()
                    .with_context(|| format!("{address} is no address"));
            }
            match self.tools.inbox.recv_timeout(GLANCE) {
                Ok(message) => self.tools.receive(message),
                Err(_) if tokio::time::Instant::now() >= deadline => {
                    bail!(CollectiveError::TimedOut {
                        operation: Operation::Form,
                        limit_ms: limit.as_millis(),
                    })
                }
                Err(_) => {}
            }
        }
    }

    /// The state that a checkpoint or the beginning of the run gives.
    fn load(
        &self,
        restored: Option<Restored>,
        lineage: Generation,
        detours: &[Detour],
    ) -> Result<Replica> {
        let mut replica = self.begin(restored, lineage)?;
        replica.position.avoid(detours, &self.tools.blueprint);
        Ok(replica)
    }

    fn begin(&self, restored: Option<Restored>, lineage: Generation) -> Result<Replica> {
        let blueprint = &self.tools.blueprint;
        let position = |progress, ledger, rows, fresh| Position {
            lineage,
            generation: lineage,
            revision: 0,
            progress,
            ledger,
            rows,
            fresh,
            boundary: None,
            paused: None,
            stopped: false,
            due: None,
        };
        let Some(restored) = restored else {
            let beginning = Beginning {
                settings: &self.config,
                config: &self.model,
                new_tokens: new_tokens(&blueprint.corpus, &self.config.start)?,
            };
            let mut engine = self.engine(beginning.parameters()?)?;
            beginning.moments(&mut engine.optimizer)?;
            let ledger = ledger_of_start(&self.config.start)?;
            let progress = Progress::new(&blueprint.schedule);
            return Ok(Replica {
                engine,
                position: position(progress, ledger, 0, true),
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
        let mut engine = self.empty_engine()?;
        let tensors = tensors.context("the checkpoint was read without its tensors")?;
        load_tensors(&mut engine, &tensors, &origin)?;
        engine.optimizer.set_steps(state.optimizer_steps);
        Ok(Replica {
            engine,
            position: position(progress, ledger, state.rows, branch),
        })
    }

    /// An engine whose numbers come from elsewhere.
    fn empty_engine(&self) -> Result<Engine> {
        let parameters = Parameters::build(&self.model, device(), |each| {
            anyhow::Ok(Tensor::zeros(
                each.shape.as_slice(),
                (Kind::Float, device()),
            ))
        })?;
        self.engine(parameters)
    }

    fn engine(&self, parameters: Parameters) -> Result<Engine> {
        let settings = &self.config;
        let model = Model {
            config: self.model.clone(),
            parameters,
        };
        let optimizer = StableAdamW::new(
            optimizer_parameters(&model),
            settings.optimizer.clone(),
            settings.learning_rate_max(),
        )?;
        let rules = StepRules {
            precision: model_precision(settings.precision),
            micro_rows: settings.batch.micro_rows as usize,
            dropout: settings.model.attention_output_dropout,
            dropout_seed: keyed_number(settings.seed, "dropout", &[]),
        };
        Ok(Engine::new(model, optimizer, rules))
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
