//! Groups whose ranks are processes: the contract, and what the living learn of a killed one.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use cohort::collective::gloo::{Gloo, connect_store, serve_store};
use cohort::collective::{Collective, CollectiveError, Operation};
use cohort::torch::gloo::TcpStore;
use tch::{Device, Kind, Tensor};

use super::{LONG, LOOPBACK, bytes, contract, seat, uneven};

/// The variable that turns [`process_of_a_rank`] into a rank: `part rank world store`.
const SEAT_VARIABLE: &str = "COHORT_TEST_SEAT";
const THIS_PROCESS: &str = "collective::processes::process_of_a_rank";

/// Not a test by itself: what the processes of the tests below run. Says what happens on stdout.
#[test]
fn process_of_a_rank() {
    let Some(words) = env::var_os(SEAT_VARIABLE) else {
        return;
    };
    let words = words.into_string().unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let [part, rank, world, store] = words[..] else {
        panic!("{SEAT_VARIABLE} has {} words", words.len());
    };
    let (rank, world) = (rank.parse().unwrap(), world.parse().unwrap());
    let store = connect_store(store.parse().unwrap(), LONG).unwrap();
    let gloo = Box::new(Gloo::form(&store, seat(rank, world)).unwrap());
    let said = match part {
        "contract" => digest(&contract(&*gloo)),
        "twice" => sum_twice(&gloo),
        "refusals" => refusals(&gloo),
        "death" => return last_rank_dies(&gloo),
        other => panic!("there is no part {other:?}"),
    };
    gloo.leave();
    println!("\nsaid {said}");
}

fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes {:x}", bytes.len(), hasher.finish())
}

fn sum_twice(gloo: &Gloo) -> String {
    let sum = || {
        let tensor = uneven(gloo.rank().0, 50_021, Kind::Float);
        gloo.all_reduce_sum(&tensor).unwrap();
        digest(&bytes(&tensor))
    };
    format!("{}, {}", sum(), sum())
}

fn refusals(gloo: &Gloo) -> String {
    let refused = [
        Tensor::new(),
        Tensor::zeros([3], (Kind::Bool, Device::Cpu)),
        Tensor::zeros([4, 6], (Kind::Float, Device::Cpu)).transpose(0, 1),
    ];
    for tensor in &refused {
        let error = gloo.all_reduce_sum(tensor).unwrap_err();
        assert!(matches!(error, CollectiveError::Refused { .. }), "{error}");
    }
    gloo.barrier().unwrap();
    "refused".to_owned()
}

fn last_rank_dies(gloo: &Gloo) {
    let tensor = Tensor::full([8 << 20], 1.0, (Kind::Float, Device::Cpu));
    gloo.all_reduce_sum(&tensor).unwrap();
    println!("\nsummed {}", tensor.double_value(&[0]));
    if gloo.rank().0 == gloo.world() - 1 {
        // Hangs, with all its connections open, until it is killed.
        let _ = std::io::stdin().read(&mut [0]);
    }
    let error = gloo.all_reduce_sum(&tensor).unwrap_err();
    let kind = match error {
        CollectiveError::PeerLost {
            operation: Operation::AllReduce,
            ..
        } => "PeerLost",
        _ => "something else",
    };
    println!("\nended in {kind}: {error}");
}

/// The ranks of one group, each in a process of its own; those that still run are killed at the
/// end. The test serves their store.
struct Group {
    ranks: Vec<Child>,
    outputs: Vec<Lines<BufReader<ChildStdout>>>,
    _store: TcpStore,
}

impl Group {
    fn start(part: &str, world: u32) -> Self {
        let store = serve_store(LOOPBACK, LONG).unwrap();
        let address = store.address();
        let start = |rank| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", THIS_PROCESS, "--nocapture"])
                .env(SEAT_VARIABLE, format!("{part} {rank} {world} {address}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap()
        };
        let mut ranks: Vec<Child> = (0..world).map(start).collect();
        let output = |rank: &mut Child| BufReader::new(rank.stdout.take().unwrap()).lines();
        let outputs = ranks.iter_mut().map(output).collect();
        Self {
            ranks,
            outputs,
            _store: store,
        }
    }

    /// The next line of each rank's stdout that starts with `start`, or what came instead.
    fn lines(&mut self, start: &str) -> Vec<String> {
        let next = |output: &mut Lines<BufReader<ChildStdout>>| {
            let found = output
                .map(Result::unwrap)
                .find(|line| line.starts_with(start));
            found.unwrap_or_else(|| format!("no line that starts with {start:?}"))
        };
        self.outputs.iter_mut().map(next).collect()
    }

    /// What each rank says at its good end.
    fn said(mut self) -> Vec<String> {
        let said = self.lines("said");
        for rank in &mut self.ranks {
            assert!(rank.wait().unwrap().success());
        }
        said
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

#[test]
fn gloo_keeps_the_contract_and_gives_all_ranks_equal_bits() {
    for world in [1, 2, 3] {
        let said = Group::start("contract", world).said();
        assert!(said[0].starts_with("said 1200036 bytes"), "{}", said[0]);
        assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
    }
}

#[test]
fn the_same_sum_twice_gives_equal_bits() {
    for said in Group::start("twice", 3).said() {
        let (first, second) = said
            .strip_prefix("said ")
            .unwrap()
            .split_once(", ")
            .unwrap();
        assert_eq!(first, second);
    }
}

#[test]
fn gloo_refuses_what_it_cannot_sum_and_stays_sound() {
    assert_eq!(Group::start("refusals", 2).said(), ["said refused"; 2]);
}

#[test]
fn a_killed_process_is_a_lost_peer_to_all_others() {
    let mut group = Group::start("death", 4);
    assert_eq!(group.lines("summed"), ["summed 4"; 4]);
    group.ranks[3].kill().unwrap();
    // The limit of an operation is a minute, and the outcome then would be TimedOut.
    for ended in &group.lines("ended in")[..3] {
        assert!(ended.starts_with("ended in PeerLost"), "{ended}");
    }
}
