//! The encoder against `ModernBertForMaskedLM` of transformers: logits, loss and every gradient of
//! seeded models (`scripts/make-parity-fixtures`), and the way back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};

use cohort::model::config::{ModelConfig, Preset};
use cohort::model::dropout::{Dropout, DroppedRow};
use cohort::model::encoder::{Model, Precision};
use cohort::model::fill_mask::fill_mask;
use cohort::model::head::MaskedLoss;
use cohort::model::input::{PackedInput, Targets};
use cohort::model::parameters::Parameters;
use cohort::model::weights::{CONFIG_FILE, MissingHead, WEIGHTS_FILE, load_directory, save};
use cohort::model::{huggingface, init, tile};
use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

use crate::support::python;

const FIXTURES: [&str; 3] = ["base", "large", "window-128"];
/// Of ‖found - wanted‖ / ‖wanted‖, for every tensor.
const TOLERANCE: f64 = 1e-4;
const EMBEDDINGS: &str = "model.embeddings.tok_embeddings.weight";

struct Fixture {
    model: Model,
    input: PackedInput,
    targets: Targets,
    ids: Vec<u32>,
    ends: Vec<u32>,
    labels: Vec<i64>,
    expected: Vec<u8>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let folder = root().join("tests/fixtures/parity").join(name);
        let (config, parameters) =
            load_directory(&folder, MissingHead::Refuse, Device::Cpu).unwrap();
        let expected = fs::read(folder.join("expected.safetensors")).unwrap();
        let integers = |name: &str| Vec::<i64>::try_from(tensor(&expected, name)).unwrap();
        let unsigned = |name: &str| -> Vec<u32> {
            integers(name)
                .into_iter()
                .map(|number| u32::try_from(number).unwrap())
                .collect()
        };
        let (ids, ends) = (unsigned("input_ids"), unsigned("cu_seqlens"));
        let labels = integers("labels");
        let input = PackedInput::new(&config, &ids, &ends, Device::Cpu).unwrap();
        let targets = Targets::new(&config, &input, &labels, Device::Cpu).unwrap();
        let model = Model { config, parameters };
        Self {
            model,
            input,
            targets,
            ids,
            ends,
            labels,
            expected,
        }
    }

    fn expected(&self, name: &str) -> Tensor {
        tensor(&self.expected, name)
    }

    fn loss(&self, precision: Precision) -> MaskedLoss {
        self.model
            .encoder(precision)
            .loss(&self.input, &self.targets, None)
    }

    /// Backward of the mean over the masked positions.
    fn backward(&mut self, precision: Precision) -> f64 {
        self.model.parameters.zero_gradients();
        let loss = self.loss(precision);
        let mean = loss.sum / loss.masked;
        mean.backward();
        mean.double_value(&[])
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn tensor(bytes: &[u8], name: &str) -> Tensor {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    let kind = match view.dtype() {
        safetensors::Dtype::F32 => Kind::Float,
        safetensors::Dtype::I64 => Kind::Int64,
        other => panic!("{name} is {other:?}"),
    };
    Tensor::from_data_size(view.data(), &shape, kind)
}

fn relative_error(found: &Tensor, wanted: &Tensor) -> f64 {
    assert_eq!(found.size(), wanted.size());
    let norm = |tensor: &Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(found.to_kind(Kind::Double) - wanted.to_kind(Kind::Double))) / norm(wanted)
}

fn logits(model: &Model, input: &PackedInput, precision: Precision) -> Tensor {
    tch::no_grad(|| {
        let encoder = model.encoder(precision);
        encoder
            .logits(&encoder.encode(input, None))
            .to_kind(Kind::Float)
    })
}

#[test]
fn logits_loss_and_every_gradient_are_those_of_transformers() {
    for name in FIXTURES {
        let mut fixture = Fixture::open(name);
        let found = logits(&fixture.model, &fixture.input, Precision::Fp32);
        let logits_error = relative_error(&found, &fixture.expected("logits"));
        assert!(
            logits_error <= TOLERANCE,
            "{name}: logits differ by {logits_error:e}"
        );
        let loss = fixture.backward(Precision::Fp32);
        let wanted = fixture.expected("loss").double_value(&[0]);
        let loss_error = (loss / wanted - 1.0).abs();
        assert!(
            loss_error <= TOLERANCE,
            "{name}: loss {loss} is not {wanted}"
        );
        let mut worst = (0.0, String::new());
        for parameter in fixture.model.parameters.iter() {
            let wanted = fixture.expected(&format!("gradient.{}", parameter.name));
            let error = relative_error(&parameter.tensor.grad(), &wanted);
            assert!(
                error <= TOLERANCE,
                "{name}: gradient of {} differs by {error:e}",
                parameter.name
            );
            if error > worst.0 {
                worst = (error, parameter.name.clone());
            }
        }
        println!(
            "{name}: logits {logits_error:.2e}, loss {loss_error:.2e}, {} gradients, worst {:.2e} \
             ({})",
            fixture.model.parameters.len(),
            worst.0,
            worst.1
        );
    }
}

#[test]
fn correct_predictions_are_counted() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let loss = fixture.loss(Precision::Fp32);
        let best = fixture.expected("logits").argmax(-1, false);
        let labels = fixture.expected("labels");
        let wanted = best.eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(loss.correct.int64_value(&[]), wanted, "{name}");
        let masked = labels.ne(-100).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(loss.masked, masked, "{name}");
    }
}

/// Each document alone gives what it gives in the pack.
#[test]
fn neighbors_in_a_pack_do_not_matter() {
    for name in FIXTURES {
        let fixture = Fixture::open(name);
        let packed = logits(&fixture.model, &fixture.input, Precision::Fp32);
        for pair in fixture.ends.windows(2) {
            let ids = &fixture.ids[pair[0] as usize..pair[1] as usize];
            let ends = [0, pair[1] - pair[0]];
            let input = PackedInput::new(&fixture.model.config, ids, &ends, Device::Cpu).unwrap();
            let alone = logits(&fixture.model, &input, Precision::Fp32);
            let part = packed.narrow(0, i64::from(pair[0]), i64::from(ends[1]));
            let error = relative_error(&part, &alone);
            assert!(
                error <= 1e-5,
                "{name}: document at {} differs by {error:e}",
                pair[0]
            );
        }
    }
}

/// Against fp32, our bf16 products are as noisy as those of transformers under bf16 autocast, whose
/// distances the fixture holds: not half as exact, not half as wrong again.
#[test]
fn bf16_is_as_close_to_fp32_as_autocast_in_transformers() {
    for name in FIXTURES {
        let mut fixture = Fixture::open(name);
        let exact = logits(&fixture.model, &fixture.input, Precision::Fp32);
        let rough = logits(&fixture.model, &fixture.input, Precision::Bf16);
        fixture.backward(Precision::Fp32);
        let exact_gradients = flat_gradients(&fixture.model.parameters);
        fixture.backward(Precision::Bf16);
        let errors = [
            relative_error(&rough, &exact),
            relative_error(&flat_gradients(&fixture.model.parameters), &exact_gradients),
        ];
        for (index, (what, error)) in ["logits", "gradients"].into_iter().zip(errors).enumerate() {
            let autocast = fixture
                .expected("autocast_errors")
                .double_value(&[index as i64]);
            println!("{name}: bf16 {what} {error:.2e}, transformers {autocast:.2e}");
            assert!(
                (0.5..1.5).contains(&(error / autocast)),
                "{name}: bf16 {what} differ by {error:e}, those of transformers by {autocast:e}"
            );
        }
    }
}

fn flat_gradients(parameters: &Parameters) -> Tensor {
    let all: Vec<Tensor> = parameters
        .iter()
        .map(|each| {
            assert_eq!(each.tensor.grad().kind(), Kind::Float);
            each.tensor.grad().reshape(-1i64)
        })
        .collect();
    Tensor::cat(&all, 0)
}

/// One encoder serves many packs: gradients add up, also through the cast to bf16.
#[test]
fn packs_of_one_step_share_an_encoder() {
    for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Bf16, 0.02)] {
        let mut fixture = Fixture::open("base");
        fixture.backward(precision);
        let whole = gradients(&fixture.model.parameters);
        fixture.model.parameters.zero_gradients();
        let encoder = fixture.model.encoder(precision);
        let masked = fixture.targets.count();
        for pair in fixture.ends.windows(2) {
            let range = pair[0] as usize..pair[1] as usize;
            let ends = [0, pair[1] - pair[0]];
            let config = &fixture.model.config;
            let input =
                PackedInput::new(config, &fixture.ids[range.clone()], &ends, Device::Cpu).unwrap();
            let targets =
                Targets::new(config, &input, &fixture.labels[range], Device::Cpu).unwrap();
            // A document without masked tokens has a loss of 0 and a gradient of 0.
            let loss = encoder.loss(&input, &targets, None);
            (loss.sum / masked).backward();
        }
        for (parameter, whole) in fixture.model.parameters.iter().zip(&whole) {
            let error = relative_error(&parameter.tensor.grad(), whole);
            assert!(
                error <= tolerance,
                "{precision:?} {}: {error:e}",
                parameter.name
            );
        }
    }
}

fn gradients(parameters: &Parameters) -> Vec<Tensor> {
    parameters
        .iter()
        .map(|each| each.tensor.grad().copy())
        .collect()
}

/// What we save, transformers loads, and computes the same. Needs a Python with transformers, named
/// by `COHORT_PYTHON`.
#[test]
fn transformers_loads_our_checkpoints() {
    if !python::has_transformers() {
        return;
    }
    let mut models: Vec<Model> = FIXTURES
        .iter()
        .map(|name| Fixture::open(name).model)
        .collect();
    let mut unusual = Fixture::open("base").model;
    unusual.config = ModelConfig {
        global_every: 2,
        global_rope_base: 300.0,
        local_rope_base: 20.0,
        local_window: 30,
        ..unusual.config
    };
    models.push(unusual);
    for model in models {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(CONFIG_FILE),
            huggingface::write(&model.config),
        )
        .unwrap();
        fs::write(
            folder.path().join(WEIGHTS_FILE),
            save(&model.parameters).unwrap(),
        )
        .unwrap();
        let ids: Vec<u32> = (0..400).map(|index| index * 7 % 40).collect();
        let ends = [0, 150, 151, 400];
        let input = PackedInput::new(&model.config, &ids, &ends, Device::Cpu).unwrap();
        let boundaries = Tensor::from_slice(input.cu_seqlens());
        let found = logits(&model, &input, Precision::Fp32);
        let probe = folder.path().join("probe.safetensors");
        Tensor::write_safetensors(
            &[
                ("input_ids", input.input_ids()),
                ("cu_seqlens", &boundaries),
                ("logits", &found),
            ],
            &probe,
        )
        .unwrap();
        python::run_script("check-parity", &[folder.path(), &probe]);
    }
}

/// Rows drop the same numbers in one pack and one by one, so micro-batches and ranks do not matter.
#[test]
fn dropout_belongs_to_the_row() {
    let fixture = Fixture::open("base");
    let encoder = fixture.model.encoder(Precision::Fp32);
    let rows: Vec<DroppedRow> = fixture
        .ends
        .windows(2)
        .enumerate()
        .map(|(index, pair)| DroppedRow {
            row: 100 + index as u64,
            tokens: i64::from(pair[0])..i64::from(pair[1]),
        })
        .collect();
    let encode = |input: &PackedInput, dropout: Option<&Dropout>| {
        tch::no_grad(|| encoder.encode(input, dropout))
    };
    let whole = Dropout::new(0.1, 5, rows.clone());
    let packed = encode(&fixture.input, Some(&whole));
    let without = encode(&fixture.input, None);
    assert!(
        relative_error(&packed, &without) > 0.05,
        "nothing was dropped"
    );
    for row in rows {
        let (start, length) = (row.tokens.start, row.tokens.end - row.tokens.start);
        let ids = &fixture.ids[row.tokens.start as usize..row.tokens.end as usize];
        let ends = [0, u32::try_from(length).unwrap()];
        let input = PackedInput::new(&fixture.model.config, ids, &ends, Device::Cpu).unwrap();
        let one = Dropout::new(
            0.1,
            5,
            vec![DroppedRow {
                row: row.row,
                tokens: 0..length,
            }],
        );
        let error = relative_error(
            &packed.narrow(0, start, length),
            &encode(&input, Some(&one)),
        );
        assert!(error <= 1e-5, "row {} differs by {error:e}", row.row);
    }
}

/// A tiled model is a usable start: same vocabulary, larger shape, and the head in place.
#[test]
fn a_tiled_model_runs() {
    let small = Fixture::open("base");
    let config = ModelConfig {
        hidden_size: 40,
        attention_heads: 5,
        intermediate_size: 60,
        layers: 7,
        ..small.model.config.clone()
    };
    let parameters = tile::enlarge(&small.model, &config, Device::Cpu).unwrap();
    let model = Model { config, parameters };
    let found = logits(&model, &small.input, Precision::Fp32);
    assert_eq!(found.size(), [161, 80]);
    assert_eq!(found.isfinite().all().int64_value(&[]), 1);
}

/// An encoder whose bias favors one token names it first, with the probability that softmax gives.
#[test]
fn masks_are_filled_with_the_most_probable_tokens() {
    let path = root().join("../shared/data/tokenizer/modernbert/tokenizer.json");
    if !path.exists() {
        crate::support::skipped(&format!("there is no tokenizer at {}", path.display()));
        return;
    }
    let tokenizer = tokenizers::Tokenizer::from_file(&path).unwrap();
    let config = ModelConfig {
        hidden_size: 24,
        attention_heads: 3,
        intermediate_size: 36,
        layers: 4,
        ..Preset::Base.config()
    };
    let parameters = init::initialize(&config, 1, Device::Cpu);
    let wanted = tokenizer.token_to_id("Ġfever").unwrap();
    tch::no_grad(|| {
        let _ = parameters
            .tensor("decoder.bias")
            .get(i64::from(wanted))
            .fill_(20.0);
        assert_eq!(parameters.tensor(EMBEDDINGS).size()[0], 50_368);
    });
    let model = Model { config, parameters };
    let filled = fill_mask(&model, &tokenizer, "Chills and [MASK] since [MASK].", 3).unwrap();
    assert_eq!(filled.len(), 2);
    for mask in &filled {
        assert_eq!(mask.candidates.len(), 3);
        assert_eq!(
            (mask.candidates[0].id, mask.candidates[0].token.as_str()),
            (wanted, " fever")
        );
        assert!((0.99..1.0).contains(&mask.candidates[0].probability));
        assert!(mask.candidates[1].probability >= mask.candidates[2].probability);
    }
    let error = fill_mask(&model, &tokenizer, "secret text", 3)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has no [MASK]") && !error.contains("secret"),
        "{error}"
    );
}
