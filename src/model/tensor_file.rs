//! Tensors as safetensors files: fp32, little-endian, sorted by name, so that equal numbers give
//! equal bytes.
//!
//! A file is made in memory with one copy of each tensor, straight into its place: while that goes
//! on nothing trains, and a file is as large as a model.

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tch::{Device, Kind, Tensor};

/// The length of the header, in bytes, comes before it.
const LENGTH_BYTES: usize = size_of::<u64>();
/// The format wants the first tensor at a multiple of this.
const ALIGNMENT: usize = 8;

/// Copies tensors of any device into the bytes of a file.
///
/// # Errors
/// Two tensors of one name; tensors that cannot be copied to the host.
///
/// # Panics
/// On tensors that are not fp32.
pub fn write<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let mut tensors: Vec<(&str, &Tensor)> = tensors.into_iter().collect();
    tensors.sort_unstable_by_key(|(name, _)| *name);
    let mut infos = Vec::with_capacity(tensors.len());
    let mut end = 0;
    for (name, tensor) in &tensors {
        assert_eq!(tensor.kind(), Kind::Float, "{name} is kept in fp32");
        let begin = end;
        end += tensor.numel() * size_of::<f32>();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: tensor.size().iter().map(|&size| size as usize).collect(),
            data_offsets: (begin, end),
        };
        infos.push(((*name).to_owned(), info));
    }
    let repeated = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0);
    ensure!(repeated.is_none(), "two tensors have the same name");
    let metadata = [("format".to_owned(), "pt".to_owned())];
    let metadata = Metadata::new(Some(metadata.into_iter().collect()), infos)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');

    let mut file = vec![0; LENGTH_BYTES + header.len() + end];
    let (head, mut rest) = file.split_at_mut(LENGTH_BYTES + header.len());
    head[..LENGTH_BYTES].copy_from_slice(&(header.len() as u64).to_le_bytes());
    head[LENGTH_BYTES..].copy_from_slice(&header);
    for (name, tensor) in tensors {
        let (place, after) = rest.split_at_mut(tensor.numel() * size_of::<f32>());
        let host = tensor.detach().to_device(Device::Cpu).contiguous().view(-1);
        // libtorch and safetensors are both little-endian on every machine that libtorch runs on.
        host.f_copy_data_u8(place, host.numel())
            .with_context(|| format!("cannot copy {name} to the host"))?;
        rest = after;
    }
    Ok(file)
}

/// Reads all tensors of such a file.
///
/// # Errors
/// What is no intact file, or has tensors that are not fp32; `origin` names it.
pub fn read(bytes: &[u8], origin: &str) -> Result<Vec<(String, Tensor)>> {
    let file = SafeTensors::deserialize(bytes).with_context(|| format!("{origin} is damaged"))?;
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            ensure!(
                view.dtype() == Dtype::F32,
                "{origin}: {name} is {:?}, not F32",
                view.dtype()
            );
            let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)
                .map_err(|error| anyhow!("{origin}: {name}: {error}"))?;
            Ok((name, tensor))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn odd_tensors() -> [(&'static str, Tensor); 4] {
        let odd = [f32::MIN_POSITIVE, -0.0, 1.5e-40, f32::MAX, 0.1, -7.25];
        let whole = Tensor::from_slice(&odd).view([2, 3]);
        [
            ("turned", whole.transpose(0, 1)),
            ("whole", whole),
            ("a", Tensor::from_slice(&odd[..1])),
            ("none", Tensor::from_slice::<f32>(&[])),
        ]
    }

    fn by_name<'a>(
        tensors: &'a [(&'static str, Tensor)],
    ) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        tensors.iter().map(|(name, tensor)| (*name, tensor))
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let flat = tensor.contiguous().view(-1);
        let numbers = Vec::<f32>::try_from(&flat).unwrap();
        numbers.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn tensors_survive_bit_for_bit() {
        let tensors = odd_tensors();
        let file = write(by_name(&tensors)).unwrap();
        let found = read(&file, "test").unwrap();
        assert_eq!(found.len(), tensors.len());
        for (name, tensor) in by_name(&tensors) {
            let (_, same) = found.iter().find(|(found, _)| found == name).unwrap();
            assert_eq!((same.size(), bits(same)), (tensor.size(), bits(tensor)));
        }
        assert!(read(&file[..file.len() - 1], "cut.safetensors").is_err());
        let twice = [&tensors[1], &tensors[1]].map(|(name, tensor)| (*name, tensor));
        assert!(write(twice).is_err());
    }

    /// Another writer gives the same bytes.
    #[test]
    fn the_file_is_the_librarys() {
        let tensors = odd_tensors();
        let bytes: Vec<(&str, Vec<usize>, Vec<u8>)> = by_name(&tensors)
            .map(|(name, tensor)| {
                let numbers = bits(tensor)
                    .into_iter()
                    .flat_map(u32::to_le_bytes)
                    .collect();
                let shape = tensor.size().iter().map(|&size| size as usize).collect();
                (name, shape, numbers)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, numbers)| {
            (
                *name,
                TensorView::new(Dtype::F32, shape.clone(), numbers).unwrap(),
            )
        });
        let metadata = [("format".to_owned(), "pt".to_owned())];
        let metadata = Some(metadata.into_iter().collect());
        let wanted = safetensors::serialize(views, metadata).unwrap();
        assert_eq!(write(by_name(&tensors)).unwrap(), wanted);
    }
}
