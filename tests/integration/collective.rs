//! The contract of `Collective`, and what ends a Gloo group on loopback. Most of it runs with a
//! process for each rank, as in a run; the rest has threads that each form their own group.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use cohort::collective::gloo::{Gloo, Seat, connect_store, serve_store};
use cohort::collective::solo::Solo;
use cohort::collective::{Collective, CollectiveError, Operation};
use cohort::ids::{Generation, Rank};
use tch::{Device, Kind, Tensor};

mod processes;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Longer than any test should take: a test that meets it fails, it does not hang.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(400);

fn seat(rank: u32, world: u32) -> Seat {
    Seat {
        generation: Generation(1),
        rank: Rank(rank),
        world,
        host: LOOPBACK,
        connect_timeout: LONG,
        operation_timeout: LONG,
    }
}

/// Runs `body` on one named thread a rank, each with its own end of a Gloo group and its own limit
/// of an operation; gives their results in rank order.
fn with_ranks<T: Send>(limits: &[Duration], body: impl Fn(Box<Gloo>) -> T + Sync) -> Vec<T> {
    let world = u32::try_from(limits.len()).unwrap();
    let store = serve_store(LOOPBACK, LONG).unwrap();
    let address = store.address();
    let body = &body;
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .zip(limits)
            .map(|(rank, limit)| {
                let seat = Seat {
                    operation_timeout: *limit,
                    ..seat(rank, world)
                };
                let run = move || {
                    let store = connect_store(address, LONG).unwrap();
                    body(Box::new(Gloo::form(&store, seat).unwrap()))
                };
                thread::Builder::new()
                    .name(format!("rank-{rank}"))
                    .spawn_scoped(scope, run)
                    .unwrap()
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// Values that differ by rank and whose sum in float32 depends on the order of the sums.
fn uneven(rank: u32, count: i64, kind: Kind) -> Tensor {
    let steps = Tensor::arange(count, (Kind::Double, Device::Cpu));
    ((steps * 0.731 + f64::from(rank) * 1.37).sin() * 10_f64.powi(3 - rank.cast_signed() * 2))
        .to_kind(kind)
}

/// What every implementation must do. Returns the bytes of all results, equal on all ranks.
fn contract(collective: &dyn Collective) -> Vec<u8> {
    let (rank, world) = (collective.rank().0, collective.world());
    let mut results = Vec::new();

    for kind in [
        Kind::Float,
        Kind::Double,
        Kind::Int64,
        Kind::Int,
        Kind::Half,
        Kind::BFloat16,
    ] {
        let base = Tensor::arange(37, (kind, Device::Cpu));
        let tensor = &base * f64::from(rank + 1);
        collective.all_reduce_sum(&tensor).unwrap();
        let expected = base * f64::from(world * (world + 1) / 2);
        assert_eq!(tensor, expected, "{kind:?}");
    }
    for (kind, tolerance) in [(Kind::Float, 1e-3), (Kind::Double, 1e-9)] {
        let tensor = uneven(rank, 100_003, kind);
        collective.all_reduce_sum(&tensor).unwrap();
        let parts: Vec<Tensor> = (0..world)
            .map(|rank| uneven(rank, 100_003, kind).to_kind(Kind::Double))
            .collect();
        let expected = Tensor::stack(&parts, 0).sum_dim_intlist(0_i64, false, Kind::Double);
        let apart = (tensor.to_kind(Kind::Double) - expected)
            .abs()
            .max()
            .double_value(&[]);
        assert!(apart <= tolerance, "{kind:?}: {apart:e}");
        results.extend(bytes(&tensor));
    }
    for root in 0..world {
        let floats = uneven(rank, 1_001, Kind::Float);
        collective.broadcast(&floats, Rank(root)).unwrap();
        assert_eq!(floats, uneven(root, 1_001, Kind::Float));
        let directive = Tensor::from_slice(&[rank as u8; 5]);
        collective.broadcast(&directive, Rank(root)).unwrap();
        assert_eq!(bytes(&directive), [root as u8; 5]);
    }
    let scalar = Tensor::from(f64::from(rank) + 0.5);
    collective.all_reduce_sum(&scalar).unwrap();
    assert_eq!(scalar, Tensor::from(f64::from(world * world) / 2.0));
    let empty = Tensor::zeros([0], (Kind::Float, Device::Cpu));
    collective.all_reduce_sum(&empty).unwrap();

    let big = Tensor::full([8 << 20], f64::from(rank + 1), (Kind::Float, Device::Cpu));
    collective.all_reduce_sum(&big).unwrap();
    let expected = f64::from(world * (world + 1) / 2);
    let extremes = (big.min().double_value(&[]), big.max().double_value(&[]));
    assert_eq!(extremes, (expected, expected), "32 MiB");

    let nowhere = collective.broadcast(&scalar, Rank(world)).unwrap_err();
    assert!(matches!(
        nowhere,
        CollectiveError::Refused {
            operation: Operation::Broadcast,
            ..
        }
    ));
    collective.barrier().unwrap();
    results
}

#[test]
fn solo_keeps_the_contract() {
    let solo = Solo::default();
    contract(&solo);
    solo.abort_handle().abort();
    let tensor = Tensor::from(1.0);
    assert!(matches!(
        solo.all_reduce_sum(&tensor),
        Err(CollectiveError::Aborted { .. })
    ));
}

#[test]
fn a_rank_that_never_comes_ends_in_a_timeout() {
    let store = serve_store(LOOPBACK, LONG).unwrap();
    let error = Gloo::form(
        &store,
        Seat {
            connect_timeout: SHORT,
            ..seat(0, 2)
        },
    )
    .unwrap_err();
    let expected = matches!(
        error,
        CollectiveError::TimedOut {
            operation: Operation::Form,
            ..
        }
    );
    assert!(expected, "{error}");

    let vacant = serve_store(LOOPBACK, LONG).unwrap().address();
    let error = connect_store(vacant, SHORT).unwrap_err();
    assert!(
        matches!(
            error,
            CollectiveError::TimedOut { .. } | CollectiveError::PeerLost { .. }
        ),
        "{error}"
    );
}

#[test]
fn a_hung_peer_ends_in_a_timeout_and_then_in_its_own_error() {
    let (woke, wait) = sync_channel::<()>(1);
    let wait = std::sync::Mutex::new(wait);
    let outcomes = with_ranks(&[SHORT, LONG], |gloo| {
        let tensor = Tensor::ones([1_000], (Kind::Float, Device::Cpu));
        if gloo.rank() == Rank(1) {
            wait.lock().unwrap().recv().unwrap();
            return gloo.all_reduce_sum(&tensor).unwrap_err();
        }
        let error = gloo.all_reduce_sum(&tensor).unwrap_err();
        let later = gloo.barrier().unwrap_err();
        assert!(matches!(later, CollectiveError::Aborted { .. }), "{later}");
        woke.send(()).unwrap();
        error
    });
    assert!(
        matches!(
            &outcomes[0],
            CollectiveError::TimedOut {
                operation: Operation::AllReduce,
                limit_ms: 400
            }
        ),
        "{}",
        outcomes[0]
    );
    assert!(
        matches!(&outcomes[1], CollectiveError::PeerLost { .. }),
        "{}",
        outcomes[1]
    );
}

#[test]
fn an_abort_from_another_thread_ends_the_operation_here_and_at_the_peer() {
    let (give, take) = sync_channel(1);
    let take = std::sync::Mutex::new(take);
    let outcomes = with_ranks(&[Duration::from_secs(20), LONG], |gloo| {
        if gloo.rank() == Rank(0) {
            // The operation can never finish, for the peer does not start its part.
            give.send(gloo.abort_handle()).unwrap();
            return gloo.all_reduce_sum(&Tensor::from(1.0)).unwrap_err();
        }
        take.lock().unwrap().recv().unwrap().abort();
        gloo.barrier().unwrap_err()
    });
    assert!(
        matches!(&outcomes[0], CollectiveError::Aborted { .. }),
        "{}",
        outcomes[0]
    );
    assert!(
        matches!(&outcomes[1], CollectiveError::PeerLost { .. }),
        "{}",
        outcomes[1]
    );
}
