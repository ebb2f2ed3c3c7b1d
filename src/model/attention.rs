//! The attention kernels: softmax(q·kᵀ / √d)·v with heads of size d, inside each document of a
//! pack, over the whole document (global layers) or a window around each token (local layers).
//!
//! Never sees weights, positions or precision policy: tensors in, a tensor of the same kind out.
//!
//! Local attention cuts the pack into blocks no shorter than half a window; a block's queries need
//! the keys of the block before, their own and the block after. So its cost is O(n x window) in
//! time and memory. Padding at the end of the last block attends to padding only, hence no row of
//! the mask is empty and no softmax is 0 / 0.
//!
//! Which kernel is faster was measured with libtorch 2.11 on one thread of an AMD EPYC with
//! `avx512_bf16`, 8192 tokens, 12 heads of 64, forward and backward: with a window of 128,
//! libtorch's fused attention takes 0.35 s in fp32 and 0.37 s in bf16, explicit products 0.48 s and
//! 0.17 s; over documents of 512 tokens 0.57 s and 0.50 s against 0.98 s and 0.42 s, and beyond
//! that explicit products also need memory for every probability. Hence [`choose`].

use tch::{Device, Kind, Tensor};

/// Shorter blocks would make the matrix products too small to pay.
const BLOCK_LENGTH_MIN: i64 = 32;
/// Explicit products keep length x length probabilities a document and head for the backward pass.
const EXPLICIT_LENGTH_MAX: i64 = 512;

/// One layer's queries, keys and values, each `[n, heads, head_size]`, positions applied.
#[derive(Debug)]
pub struct Heads {
    pub queries: Tensor,
    pub keys: Tensor,
    pub values: Tensor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// libtorch's `scaled_dot_product_attention`.
    Fused,
    /// Two batched products and a softmax.
    Explicit,
}

fn choose(device: Device, kind: Kind, keys: i64) -> Kernel {
    if device == Device::Cpu && kind == Kind::BFloat16 && keys <= EXPLICIT_LENGTH_MAX {
        Kernel::Explicit
    } else {
        Kernel::Fused
    }
}

/// Attention of queries `[b, heads, q, head_size]` over keys and values `[b, heads, k, head_size]`,
/// with an additive mask `[b, 1, q, k]` of their kind.
fn attend(heads: &Heads, mask: Option<&Tensor>) -> Tensor {
    let Heads {
        queries,
        keys,
        values,
    } = heads;
    let (size, key_count) = (queries.size(), keys.size()[2]);
    match choose(queries.device(), queries.kind(), key_count) {
        Kernel::Fused => Tensor::scaled_dot_product_attention(
            queries, keys, values, mask, 0.0, false, None, false,
        ),
        Kernel::Explicit => {
            let (batch, head_size) = (size[0] * size[1], size[3]);
            let scaled = queries * (head_size as f64).powf(-0.5);
            let scores = scaled
                .reshape([batch, size[2], head_size])
                .bmm(&keys.reshape([batch, key_count, head_size]).transpose(1, 2));
            let scores = match mask {
                None => scores,
                Some(mask) => (scores.view([size[0], size[1], size[2], key_count]) + mask)
                    .view([batch, size[2], key_count]),
            };
            let probabilities = scores.softmax(-1, None::<Kind>);
            let output = probabilities.bmm(&values.reshape([batch, key_count, head_size]));
            output.view(size.as_slice())
        }
    }
}

/// Every token attends to every token of its document. Returns `[n, heads, head_size]`.
pub fn global(heads: &Heads, cu_seqlens: &[i64]) -> Tensor {
    let runs = runs_of_equal_length(cu_seqlens);
    let tokens: Vec<i64> = runs.iter().map(|(count, length)| count * length).collect();
    // Splitting once gives one concatenation in the backward pass; slicing would fill a tensor of n
    // tokens with zeros for every document.
    let split = |tensor: &Tensor| tensor.split_with_sizes(&tokens, 0);
    let parts = split(&heads.queries)
        .into_iter()
        .zip(split(&heads.keys))
        .zip(split(&heads.values));
    let outputs: Vec<Tensor> = runs
        .iter()
        .zip(parts)
        .map(|((count, length), ((queries, keys), values))| {
            let size = queries.size();
            let batched = |tensor: &Tensor| {
                tensor
                    .reshape([*count, *length, size[1], size[2]])
                    .transpose(1, 2)
            };
            let batch = Heads {
                queries: batched(&queries),
                keys: batched(&keys),
                values: batched(&values),
            };
            attend(&batch, None)
                .transpose(1, 2)
                .reshape(size.as_slice())
        })
        .collect();
    if outputs.len() == 1 {
        outputs[0].shallow_clone()
    } else {
        Tensor::cat(&outputs, 0)
    }
}

/// Neighboring documents of one length, as (documents, length): a run is one batch.
fn runs_of_equal_length(cu_seqlens: &[i64]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for pair in cu_seqlens.windows(2) {
        let length = pair[1] - pair[0];
        match runs.last_mut() {
            Some((count, same)) if *same == length => *count += 1,
            _ => runs.push((1, length)),
        }
    }
    runs
}

/// The blocks of one pack and which key each query may see; the same for all local layers.
#[derive(Debug)]
pub struct LocalBlocks {
    tokens: i64,
    blocks: i64,
    block_length: i64,
    /// 0 or -∞, `[blocks, 1, block_length, 3 x block_length]`.
    mask: Tensor,
}

impl LocalBlocks {
    /// Blocks for documents with these boundaries, where a token sees `half_window` tokens on each
    /// side and itself. `kind` is that of the queries to come.
    pub fn new(cu_seqlens: &[i64], half_window: i64, kind: Kind, device: Device) -> Self {
        let tokens = cu_seqlens.last().copied().unwrap_or(0);
        let block_length = half_window.max(BLOCK_LENGTH_MIN);
        let blocks = (tokens + block_length - 1) / block_length;
        // The document of each slot; padding inside the last block is one more document, the slots
        // outside of all blocks are none.
        let mut documents = vec![-1i64; ((blocks + 2) * block_length) as usize];
        for (document, pair) in cu_seqlens.windows(2).enumerate() {
            let slots = (pair[0] + block_length) as usize..(pair[1] + block_length) as usize;
            documents[slots].fill(document as i64);
        }
        let padding = (tokens + block_length) as usize..((blocks + 1) * block_length) as usize;
        documents[padding].fill(cu_seqlens.len() as i64);
        let documents = Tensor::from_slice(&documents).to_device(device);
        let of_queries = documents
            .narrow(0, block_length, blocks * block_length)
            .view([blocks, block_length, 1]);
        let of_keys = documents
            .unfold(0, 3 * block_length, block_length)
            .unsqueeze(1);
        let integers = (Kind::Int64, device);
        let distance = Tensor::arange(3 * block_length, integers).unsqueeze(0)
            - Tensor::arange(block_length, integers).unsqueeze(1)
            - block_length;
        let near = distance.abs().le(half_window).unsqueeze(0);
        let visible = of_queries.eq_tensor(&of_keys).logical_and(&near);
        let mask = Tensor::zeros([blocks, block_length, 3 * block_length], (kind, device))
            .masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
            .unsqueeze(1);
        Self {
            tokens,
            blocks,
            block_length,
            mask,
        }
    }

    /// Every token attends to the tokens of its document within the window. Returns
    /// `[n, heads, head_size]`.
    pub fn attend(&self, heads: &Heads) -> Tensor {
        let size = heads.queries.size();
        let neighborhood = Heads {
            queries: self.cut(&heads.queries),
            keys: self.neighbors(&heads.keys),
            values: self.neighbors(&heads.values),
        };
        let output = attend(&neighborhood, Some(&self.mask));
        let padded = [self.blocks * self.block_length, size[1], size[2]];
        output
            .transpose(1, 2)
            .reshape(padded)
            .narrow(0, 0, self.tokens)
    }

    /// `[n, heads, head_size]` into `[blocks, heads, block_length, head_size]`.
    fn cut(&self, tensor: &Tensor) -> Tensor {
        let size = tensor.size();
        let missing = self.blocks * self.block_length - self.tokens;
        let padded = if missing == 0 {
            tensor.shallow_clone()
        } else {
            tensor.constant_pad_nd([0, 0, 0, 0, 0, missing])
        };
        padded
            .reshape([self.blocks, self.block_length, size[1], size[2]])
            .transpose(1, 2)
    }

    /// Each block between the one before and the one after:
    /// `[blocks, heads, 3 x block_length, head_size]`.
    fn neighbors(&self, tensor: &Tensor) -> Tensor {
        let padded = self.cut(tensor).constant_pad_nd([0, 0, 0, 0, 0, 0, 1, 1]);
        let shifted = |by| padded.narrow(0, by, self.blocks);
        Tensor::cat(&[shifted(0), shifted(1), shifted(2)], 2)
    }

    /// Elements of the largest tensor that local attention makes of `heads` heads: grows with
    /// n x window.
    pub fn scores(&self, heads: i64) -> i64 {
        self.blocks * heads * self.block_length * 3 * self.block_length
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
