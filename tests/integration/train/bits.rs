//! The seed decides every bit, and the number of ranks none but the rounding of sums.

use cohort::telemetry::StepMetrics;
use serde_json::json;

use crate::support::run::{Run, assert_same_bits, assert_steps_are_whole, stable};

#[test]
fn the_same_seed_gives_the_same_bits_on_one_and_on_two_ranks() {
    for ranks in [1, 2] {
        let settings = json!({"ranks": ranks, "phases": [stable(15_000)]});
        let (one, other) = (Run::new(settings.clone()), Run::new(settings));
        one.train();
        other.train();
        assert_same_bits(&one, &other);

        let mut elsewhere = Run::new(json!({"ranks": ranks, "phases": [stable(1_000)]}));
        elsewhere.change(json!({"seed": 18}));
        elsewhere.train();
        assert_ne!(one.trace()[0], elsewhere.trace()[0], "another seed");
    }
}

/// The limit on the relative difference of losses in fp32.
const LOSS_DIFFERENCE_MAX: f64 = 1e-5;
const STEPS: usize = 30;

#[test]
fn one_two_and_three_ranks_read_the_same_rows_and_agree_in_every_loss() {
    let [one, two, three] = [1, 2, 3].map(|ranks| {
        // A step holds five rows of at most 128 tokens: no fewer than 30 steps.
        let tokens = STEPS as u64 * 5 * 128;
        let run = Run::new(json!({
            "ranks": ranks,
            "phases": [stable(tokens)],
            "checkpoints": {"every_steps": null},
        }));
        run.train();
        assert_steps_are_whole(&run);
        run.metrics()
    });
    assert!(one.len() >= STEPS, "{} steps", one.len());
    for more in [&two, &three] {
        assert_eq!(one.len(), more.len());
        let mut worst: f64 = 0.0;
        for (single, shared) in one.iter().zip(more) {
            assert_eq!(rows(single), rows(shared), "step {}", single.step);
            let difference = (single.loss - shared.loss).abs() / single.loss;
            worst = worst.max(difference);
        }
        println!(
            "{} ranks: losses differ by {worst:.1e} at most",
            more[0].ranks
        );
        assert!(
            worst <= LOSS_DIFFERENCE_MAX,
            "losses differ by {worst:e} on {} ranks",
            more[0].ranks
        );
    }
    assert_eq!([&one, &two, &three].map(|run| run[0].ranks), [1, 2, 3]);
}

/// What a step read and what it predicted, down to the tokens of each source.
fn rows(line: &StepMetrics) -> serde_json::Value {
    json!([
        line.step,
        line.phase,
        line.first_row,
        line.rows,
        line.masked_tokens,
        line.step_tokens,
        line.tokens,
        line.sources,
        line.learning_rate,
    ])
}
