//! The forward pass over a pack of documents.
//!
//! Pre-norm blocks with a residual stream: x + attention(norm(x)), then x + GeGLU(norm(x)); layer 0
//! has no attention norm because the embeddings are normed already. All layer norms and matrices
//! are without bias. GELU is the exact one (erf), and it acts on the first half of the first MLP
//! matrix's output.

use tch::{Kind, Tensor};

use crate::model::attention::{self, Heads, LocalBlocks};
use crate::model::config::ModelConfig;
use crate::model::dropout::Dropout;
use crate::model::input::PackedInput;
use crate::model::parameters::Parameters;
use crate::model::rope::{self, RotaryTable};

/// What the matrix products are computed in. Parameters, gradients, the residual stream, layer
/// norms and the loss are fp32 in either case, as under PyTorch's autocast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Fp32,
    Bf16,
}

/// A shape and its parameters.
#[derive(Debug)]
pub struct Model {
    pub config: ModelConfig,
    pub parameters: Parameters,
}

/// The model's parameters as the products of one step need them. Matrices are cast once here,
/// however many packs the step has; gradients flow through the cast into the fp32 parameters. Make
/// a new one after the parameters changed.
#[derive(Debug)]
pub struct Encoder<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) kind: Kind,
    embeddings: Tensor,
    embeddings_norm: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    pub(super) head: HeadWeights,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Option<Tensor>,
    query_key_value: Tensor,
    attention_output: Tensor,
    mlp_norm: Tensor,
    mlp_input: Tensor,
    mlp_output: Tensor,
}

#[derive(Debug)]
pub(super) struct HeadWeights {
    pub(super) dense: Tensor,
    pub(super) norm: Tensor,
    pub(super) decoder: Tensor,
    pub(super) decoder_bias: Tensor,
}

/// What all layers share in one pack.
struct Pack<'a> {
    cu_seqlens: &'a [i64],
    global_positions: RotaryTable,
    local_positions: RotaryTable,
    local_blocks: LocalBlocks,
}

impl Model {
    /// The encoder for one step.
    pub fn encoder(&self, precision: Precision) -> Encoder<'_> {
        let kind = match precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        let master = |name: &str| self.parameters.tensor(name).shallow_clone();
        let cast = |name: &str| master(name).to_kind(kind);
        let layers = (0..self.config.layers)
            .map(|layer| {
                let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
                Layer {
                    attention_norm: (layer > 0).then(|| master(&name("attn_norm"))),
                    query_key_value: cast(&name("attn.Wqkv")),
                    attention_output: cast(&name("attn.Wo")),
                    mlp_norm: master(&name("mlp_norm")),
                    mlp_input: cast(&name("mlp.Wi")),
                    mlp_output: cast(&name("mlp.Wo")),
                }
            })
            .collect();
        let embeddings = "model.embeddings.tok_embeddings.weight";
        Encoder {
            config: &self.config,
            kind,
            embeddings: master(embeddings),
            embeddings_norm: master("model.embeddings.norm.weight"),
            layers,
            final_norm: master("model.final_norm.weight"),
            head: HeadWeights {
                dense: cast("head.dense.weight"),
                norm: master("head.norm.weight"),
                decoder: cast(embeddings),
                decoder_bias: cast("decoder.bias"),
            },
        }
    }
}

impl Encoder<'_> {
    /// The final hidden states, fp32 `[n, hidden_size]`. `dropout` acts on the attention output
    /// projections; leave it out except in training.
    pub fn encode(&self, input: &PackedInput, dropout: Option<&Dropout>) -> Tensor {
        let pack = self.pack(input);
        let pad = self.config.special_tokens.pad;
        let embedded = Tensor::embedding(&self.embeddings, input.input_ids(), pad, false, false);
        let mut hidden = self.norm(&embedded, &self.embeddings_norm);
        for (index, layer) in self.layers.iter().enumerate() {
            let index = index as i64;
            let attended = self.attention(layer, &hidden, &pack, index);
            let attended = match dropout {
                None => attended,
                Some(dropout) => dropout.apply(&attended, index),
            };
            // Not in place: the layer norms' backward passes still need what they read.
            let midway = hidden + attended;
            let transformed = self.mlp(layer, &midway);
            hidden = midway + transformed;
        }
        self.norm(&hidden, &self.final_norm)
    }

    fn pack<'b>(&self, input: &'b PackedInput) -> Pack<'b> {
        let device = input.input_ids().device();
        let positions = rope::positions(input.cu_seqlens(), device);
        let table = |base| RotaryTable::new(&positions, self.config.head_size(), base);
        let half_window = self.config.half_window();
        Pack {
            cu_seqlens: input.cu_seqlens(),
            global_positions: table(self.config.global_rope_base),
            local_positions: table(self.config.local_rope_base),
            local_blocks: LocalBlocks::new(input.cu_seqlens(), half_window, self.kind, device),
        }
    }

    /// `[n, hidden_size]` of the products' kind.
    fn attention(&self, layer: &Layer, hidden: &Tensor, pack: &Pack<'_>, index: i64) -> Tensor {
        let normed = match &layer.attention_norm {
            None => hidden.shallow_clone(),
            Some(weight) => self.norm(hidden, weight),
        };
        let (heads, head_size) = (self.config.attention_heads, self.config.head_size());
        let projected = self
            .product(&normed, &layer.query_key_value)
            .view([-1, 3, heads, head_size]);
        let parts = projected.split_with_sizes([2i64, 1], 1);
        let is_global = self.config.is_global(index);
        let positions = if is_global {
            &pack.global_positions
        } else {
            &pack.local_positions
        };
        let turned = positions.apply(&parts[0]).unbind(1);
        let heads = Heads {
            queries: turned[0].shallow_clone(),
            keys: turned[1].shallow_clone(),
            values: parts[1].squeeze_dim(1),
        };
        let output = if is_global {
            attention::global(&heads, pack.cu_seqlens)
        } else {
            pack.local_blocks.attend(&heads)
        };
        self.product(
            &output.reshape([-1, self.config.hidden_size]),
            &layer.attention_output,
        )
    }

    fn mlp(&self, layer: &Layer, hidden: &Tensor) -> Tensor {
        let normed = self.norm(hidden, &layer.mlp_norm);
        let halves = self.product(&normed, &layer.mlp_input).chunk(2, -1);
        self.product(&(halves[0].gelu("none") * &halves[1]), &layer.mlp_output)
    }

    /// Layer norm without bias, in fp32.
    pub(super) fn norm(&self, numbers: &Tensor, weight: &Tensor) -> Tensor {
        let width = [self.config.hidden_size];
        let epsilon = self.config.norm_epsilon;
        numbers
            .to_kind(Kind::Float)
            .layer_norm(width, Some(weight), None, epsilon, true)
    }

    /// numbers·matrixᵀ in the products' kind.
    pub(super) fn product(&self, numbers: &Tensor, matrix: &Tensor) -> Tensor {
        numbers.to_kind(self.kind).linear(matrix, None::<&Tensor>)
    }
}
