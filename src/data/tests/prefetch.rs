//! The prefetch thread: right batches, dropped guesses, and no silent end.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::data::batch::Batch;
use crate::data::prefetch::{BatchRequest, Patience, Prefetcher};
use crate::ids::RowIndex;

use super::{builder, corpus};

/// Far longer than any build here; only a bug reaches it.
const TIMEOUT: Duration = Duration::from_mins(1);

/// For a corpus in a folder, from which nothing is fetched.
fn patience() -> Patience<'static> {
    Patience {
        limit: TIMEOUT,
        fetched_bytes: &|| 0,
        given_up: &|| false,
    }
}

fn request(phase: u32, first: u64) -> BatchRequest {
    BatchRequest {
        phase,
        rows: (first..first + 3).map(RowIndex).collect(),
    }
}

/// A batch that says which request it was built for.
fn labeled(request: &BatchRequest) -> Batch {
    Batch {
        predicted: u64::from(request.phase) * 1_000 + request.rows[0].0,
        ..Batch::default()
    }
}

/// A prefetcher whose every build reports itself and waits to be let go.
struct Gated {
    begun: Receiver<BatchRequest>,
    go: SyncSender<Result<()>>,
    prefetcher: Prefetcher,
}

fn gated(ahead_max: usize) -> Gated {
    let (report, begun) = sync_channel(100);
    let (go, gate) = sync_channel::<Result<()>>(100);
    let prefetcher = Prefetcher::start(ahead_max, move |request| {
        report.send(request.clone())?;
        gate.recv()??;
        Ok(labeled(request))
    })
    .unwrap();
    Gated {
        begun,
        go,
        prefetcher,
    }
}

#[test]
fn prefetched_batches_equal_built_ones() {
    let (_folder, _, corpus) = corpus();
    let (builder, theirs) = (builder(&corpus), builder(&corpus));
    let prefetcher =
        Prefetcher::start(2, move |request: &BatchRequest| theirs.build(&request.rows)).unwrap();
    for step in 0..6 {
        let next = [request(1, (step + 1) * 3), request(1, (step + 2) * 3)];
        let wanted = request(1, step * 3);
        let delivery = prefetcher.take(&wanted, &next, patience()).unwrap();
        assert_eq!(delivery.batch, builder.build(&wanted.rows).unwrap());
    }
}

#[test]
fn expected_batches_are_built_ahead_and_up_to_the_limit() {
    let gated = gated(2);
    (0..3).for_each(|_| gated.go.send(Ok(())).unwrap());
    let next = [request(0, 3), request(0, 6), request(0, 9)];
    let first = gated
        .prefetcher
        .take(&request(0, 0), &next, patience())
        .unwrap();
    assert_eq!(first.batch.predicted, 0);
    let built: Vec<u64> = (0..3)
        .map(|_| gated.begun.recv_timeout(TIMEOUT).unwrap().rows[0].0)
        .collect();
    assert_eq!(built, [0, 3, 6]);
    // Both lie ready: nothing new is begun for them, and the fourth request begins only now.
    let second = gated
        .prefetcher
        .take(&request(0, 3), &next[1..2], patience())
        .unwrap();
    let third = gated
        .prefetcher
        .take(&request(0, 6), &next[2..], patience())
        .unwrap();
    assert_eq!((second.batch.predicted, third.batch.predicted), (3, 6));
    assert_eq!(gated.begun.recv_timeout(TIMEOUT).unwrap(), next[2]);
    gated.go.send(Ok(())).unwrap();
}

#[test]
fn a_changed_phase_drops_what_was_expected() {
    let gated = gated(1);
    gated.go.send(Ok(())).unwrap();
    gated
        .prefetcher
        .take(&request(0, 0), &[request(0, 3)], patience())
        .unwrap();
    assert_eq!(gated.begun.recv_timeout(TIMEOUT).unwrap(), request(0, 0));
    assert_eq!(gated.begun.recv_timeout(TIMEOUT).unwrap(), request(0, 3));
    // Phase 0's next batch is being built when phase 1 is wanted.
    (0..2).for_each(|_| gated.go.send(Ok(())).unwrap());
    let decay = gated
        .prefetcher
        .take(&request(1, 0), &[], patience())
        .unwrap();
    assert_eq!(decay.batch.predicted, 1_000);
    assert_eq!(gated.begun.recv_timeout(TIMEOUT).unwrap(), request(1, 0));
    // It was dropped, not kept: asked for again, it is built again.
    gated.go.send(Ok(())).unwrap();
    assert_eq!(
        gated
            .prefetcher
            .take(&request(0, 3), &[], patience())
            .unwrap()
            .batch
            .predicted,
        3
    );
    assert_eq!(gated.begun.recv_timeout(TIMEOUT).unwrap(), request(0, 3));
}

#[test]
fn a_failed_build_fails_its_own_request_only() {
    let gated = gated(1);
    gated.go.send(Err(anyhow!("the shard is gone"))).unwrap();
    gated.go.send(Ok(())).unwrap();
    let error = gated
        .prefetcher
        .take(&request(0, 0), &[request(0, 3)], patience())
        .unwrap_err();
    assert_eq!(error.to_string(), "the shard is gone");
    assert_eq!(
        gated
            .prefetcher
            .take(&request(0, 3), &[], patience())
            .unwrap()
            .batch
            .predicted,
        3
    );
}

fn short(fetched_bytes: &dyn Fn() -> u64) -> Patience<'_> {
    Patience {
        limit: Duration::from_millis(1),
        fetched_bytes,
        given_up: &|| false,
    }
}

/// Four times nothing was ready in time, and each time something had come.
#[test]
fn a_slow_store_is_waited_for() {
    let gated = gated(0);
    let looks = Cell::new(0);
    let slow = || {
        looks.set(looks.get() + 1);
        looks.get().min(5)
    };
    let error = gated
        .prefetcher
        .take(&request(2, 7), &[], short(&slow))
        .unwrap_err();
    assert!(error.to_string().contains("nothing fetched for 1ms"));
    assert_eq!(looks.get(), 6);
    gated.go.send(Ok(())).unwrap();
}

#[test]
fn a_build_that_hangs_or_panics_is_an_error() {
    let gated = gated(0);
    let error = gated
        .prefetcher
        .take(&request(2, 7), &[], short(&|| 0))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no batch of 3 rows from row 7 of phase 2, and nothing fetched for 1ms")
    );
    gated.go.send(Ok(())).unwrap();
    let panicking = Prefetcher::start(0, |_| panic!("a bug")).unwrap();
    let error = panicking.take(&request(0, 0), &[], patience()).unwrap_err();
    assert!(error.to_string().contains("the prefetch thread has ended"));
}
