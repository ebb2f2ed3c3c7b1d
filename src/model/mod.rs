//! The ModernBERT encoder and its masked-language-model head, on libtorch tensors.
//!
//! The architecture is that of Warner et al. 2024 (<https://arxiv.org/abs/2412.13663>) as the
//! `ModernBertForMaskedLM` of transformers defines it: same tensor names, same numbers. This module
//! knows nothing of steps, ranks, files of a corpus or optimizers.
//!
//! Invariants:
//! - a document's result does not depend on what is packed beside it, but for the rounding of sums;
//! - parameters are kept in fp32 under the names of the Hugging Face Hub, in one fixed order;
//! - local layers cost O(tokens x window), in time and in memory.

pub mod attention;
pub mod composer;
pub mod config;
pub mod dropout;
pub mod encoder;
pub mod fill_mask;
pub mod head;
pub mod huggingface;
pub mod init;
pub mod input;
pub mod new_rows;
pub mod parameters;
pub mod rope;
pub mod settings;
pub mod tensor_file;
pub mod tile;
pub mod torch_file;
pub mod weights;
