//! The parameters of an encoder: fp32 masters under the Hub's tensor names, in one fixed order.
//!
//! The order is that of the forward pass. It is part of the format: optimizer state, gradients in a
//! collective and checkpoints all follow it.

use tch::{Device, Kind, Tensor};

use crate::model::config::ModelConfig;

/// What a parameter is for; decides how it is initialized and how a larger model inherits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token embeddings, also the decoder.
    Embedding,
    /// A matrix that reads the residual stream.
    Input,
    /// Query, key and value matrices above one another; reads the residual stream.
    QueryKeyValue,
    /// The two GeGLU halves above one another; reads the residual stream.
    GatedInput,
    /// A matrix that writes to the residual stream.
    Output,
    /// Layer norm weights.
    Norm,
    /// The decoder's bias.
    Bias,
}

/// A parameter before it has numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specification {
    /// Name in a `ModernBertForMaskedLM` checkpoint.
    pub name: String,
    pub shape: Vec<i64>,
    pub role: Role,
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    /// fp32, requires gradients.
    pub tensor: Tensor,
}

/// All parameters of one encoder, complete and in order.
#[derive(Debug)]
pub struct Parameters {
    entries: Vec<Parameter>,
}

/// Every parameter that an encoder of this shape has, in order.
pub fn specifications(config: &ModelConfig) -> Vec<Specification> {
    let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
    let mut list = Vec::new();
    let mut add = |name: String, shape: &[i64], role: Role| {
        list.push(Specification {
            name,
            shape: shape.to_vec(),
            role,
        });
    };
    add(
        "model.embeddings.tok_embeddings.weight".into(),
        &[vocabulary, hidden],
        Role::Embedding,
    );
    add("model.embeddings.norm.weight".into(), &[hidden], Role::Norm);
    for layer in 0..config.layers {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
        if layer > 0 {
            add(name("attn_norm"), &[hidden], Role::Norm);
        }
        add(
            name("attn.Wqkv"),
            &[3 * hidden, hidden],
            Role::QueryKeyValue,
        );
        add(name("attn.Wo"), &[hidden, hidden], Role::Output);
        add(name("mlp_norm"), &[hidden], Role::Norm);
        add(
            name("mlp.Wi"),
            &[2 * config.intermediate_size, hidden],
            Role::GatedInput,
        );
        add(
            name("mlp.Wo"),
            &[hidden, config.intermediate_size],
            Role::Output,
        );
    }
    add("model.final_norm.weight".into(), &[hidden], Role::Norm);
    add("head.dense.weight".into(), &[hidden, hidden], Role::Input);
    add("head.norm.weight".into(), &[hidden], Role::Norm);
    add("decoder.bias".into(), &[vocabulary], Role::Bias);
    list
}

/// Numbers in all parameters of an encoder of this shape.
pub fn parameter_count(config: &ModelConfig) -> i64 {
    specifications(config)
        .iter()
        .map(|each| each.shape.iter().product::<i64>())
        .sum()
}

impl Parameter {
    /// Whether weight decay applies: to matrices, not to norms and biases.
    pub fn has_weight_decay(&self) -> bool {
        self.tensor.dim() >= 2
    }
}

impl Parameters {
    /// Builds the parameters of `config`, each from the tensor that `make` returns for it, as fp32
    /// on `device`.
    ///
    /// # Errors
    /// The first error of `make`.
    ///
    /// # Panics
    /// If `make` returns a tensor of another shape.
    pub fn build<E>(
        config: &ModelConfig,
        device: Device,
        mut make: impl FnMut(&Specification) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let mut entries = Vec::new();
        for specification in specifications(config) {
            let tensor = make(&specification)?;
            assert_eq!(
                tensor.size(),
                specification.shape,
                "shape of {}",
                specification.name
            );
            let tensor = tensor
                .detach()
                .to_device(device)
                .to_kind(Kind::Float)
                .contiguous();
            entries.push(Parameter {
                name: specification.name,
                tensor: tensor.set_requires_grad(true),
            });
        }
        Ok(Self { entries })
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.entries.iter()
    }

    /// The parameter of this name.
    ///
    /// # Panics
    /// If the encoder has no such parameter.
    pub fn tensor(&self, name: &str) -> &Tensor {
        let found = self.entries.iter().find(|each| each.name == name);
        &found
            .expect("every name asked for is in the specification")
            .tensor
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops all gradients' values.
    pub fn zero_gradients(&mut self) {
        for parameter in &mut self.entries {
            parameter.tensor.zero_grad();
        }
    }

    /// The device of all parameters.
    pub fn device(&self) -> Device {
        self.entries
            .first()
            .map_or(Device::Cpu, |first| first.tensor.device())
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::Preset;

    use super::*;

    /// The published sizes: 149,655,232 and 395,881,664, of which the head has 590,592 + 50,368 in
    /// the base model.
    #[test]
    fn presets_have_the_published_parameter_counts() {
        assert_eq!(parameter_count(&Preset::Base.config()), 149_655_232);
        assert_eq!(parameter_count(&Preset::Large.config()), 395_881_664);
    }
}
