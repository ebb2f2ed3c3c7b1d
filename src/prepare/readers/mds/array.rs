//! Token ids as MDS has them: a `NumPy` array of whole numbers, whose type and shape stand in the
//! column's encoding or, where they do not, before the values of each sample.

/// What a value is of a type that holds no whole numbers, or of more than one dimension.
pub const NO_IDS: &str = "holds no list of token ids";
const DAMAGED: &str = "is damaged";
const OUT_OF_RANGE: &str = "holds a number that is no token id";

/// How the ids of a column are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdArray {
    /// None where each sample names its own.
    kind: Option<Kind>,
    length: Option<u64>,
}

/// A type of little-endian whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    bytes: usize,
    signed: bool,
}

impl IdArray {
    /// From an encoding such as `ndarray`, `ndarray:uint16` or `ndarray:uint16:512`; none where it
    /// is another, or an array of several dimensions or of no whole numbers.
    pub fn parse(encoding: &str) -> Option<Self> {
        let rest = encoding.strip_prefix("ndarray")?;
        if rest.is_empty() || rest == ":" {
            return Some(Self {
                kind: None,
                length: None,
            });
        }
        let (kind, shape) = match rest.strip_prefix(':')?.split_once(':') {
            Some((kind, shape)) => (kind, Some(shape)),
            None => (rest.strip_prefix(':')?, None),
        };
        let kind = match kind {
            "uint8" => Kind::of_number(8),
            "int8" => Kind::of_number(9),
            "uint16" => Kind::of_number(16),
            "int16" => Kind::of_number(17),
            "uint32" => Kind::of_number(32),
            "int32" => Kind::of_number(33),
            "uint64" => Kind::of_number(64),
            "int64" => Kind::of_number(65),
            _ => None,
        };
        let length = match shape {
            Some(shape) => Some(shape.parse().ok()?),
            None => None,
        };
        Some(Self {
            kind: Some(kind?),
            length,
        })
    }

    /// The ids of one sample, or what is wrong with the value.
    pub fn decode(&self, value: &[u8]) -> Result<Vec<u32>, &'static str> {
        let mut rest = value;
        let kind = match self.kind {
            Some(kind) => kind,
            None => Kind::of_number(take(&mut rest, 1)?[0]).ok_or(NO_IDS)?,
        };
        let length = if let Some(length) = self.length {
            length
        } else {
            // Dimensions above the lowest two bits, the size of the numbers of the shape in
            // them: 1, 2, 4 or 8 bytes.
            let shape = take(&mut rest, 1)?[0];
            if shape >> 2 != 1 {
                return Err(NO_IDS);
            }
            number(take(&mut rest, 1 << (shape & 3))?)
        };
        if (rest.len() / kind.bytes) as u64 != length || !rest.len().is_multiple_of(kind.bytes) {
            return Err(DAMAGED);
        }
        let id = |bytes: &[u8]| {
            let is_negative = kind.signed && bytes[kind.bytes - 1] >= 0x80;
            let id = u32::try_from(number(bytes)).ok();
            id.filter(|_| !is_negative).ok_or(OUT_OF_RANGE)
        };
        rest.chunks_exact(kind.bytes).map(id).collect()
    }
}

impl Kind {
    /// By the number that the format gives to a type; none where it holds no whole numbers.
    fn of_number(number: u8) -> Option<Self> {
        let signed = number % 2 == 1;
        let bytes = match number - u8::from(signed) {
            8 => 1,
            16 => 2,
            32 => 4,
            64 => 8,
            _ => return None,
        };
        Some(Self { bytes, signed })
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], &'static str> {
    let (head, tail) = rest.split_at_checked(count).ok_or(DAMAGED)?;
    *rest = tail;
    Ok(head)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(encoding: &str, value: &[u8]) -> Result<Vec<u32>, &'static str> {
        let array = IdArray::parse(encoding).expect("an encoding of ids");
        array.decode(value)
    }

    #[test]
    fn types_and_shapes_stand_in_the_encoding_or_in_the_value() {
        let ids = Ok(vec![1, 0xfffe]);
        assert_eq!(decode("ndarray:uint16:2", &[1, 0, 0xfe, 0xff]), ids);
        assert_eq!(decode("ndarray:uint16", &[4, 2, 1, 0, 0xfe, 0xff]), ids);
        assert_eq!(decode("ndarray:uint16", &[5, 2, 0, 1, 0, 0xfe, 0xff]), ids);
        assert_eq!(decode("ndarray", &[16, 4, 2, 1, 0, 0xfe, 0xff]), ids);
        let wide = [4, 2, 1, 0, 0, 0, 0xfe, 0xff, 0, 0];
        assert_eq!(decode("ndarray:int32", &wide), ids);
        let widest = [65, 7, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode("ndarray:", &widest), Ok(vec![9]));
        assert_eq!(decode("ndarray:uint8", &[4, 0]), Ok(vec![]));
    }

    #[test]
    fn values_that_are_no_ids() {
        assert_eq!(
            decode("ndarray:int16", &[4, 1, 0xff, 0xff]),
            Err(OUT_OF_RANGE)
        );
        let large = [4, 1, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(decode("ndarray:uint64", &large), Err(OUT_OF_RANGE));
        // Two dimensions, and a number with a fraction.
        assert_eq!(decode("ndarray:uint16", &[8, 1, 1, 1, 0]), Err(NO_IDS));
        assert_eq!(decode("ndarray", &[18, 4, 1, 0, 0]), Err(NO_IDS));
        for value in [&[][..], &[4], &[7, 1], &[4, 2, 1, 0], &[4, 1, 1, 0, 0]] {
            assert_eq!(decode("ndarray:uint16", value), Err(DAMAGED), "{value:?}");
        }
        for encoding in [
            "str",
            "bytes",
            "ndarray:float16",
            "ndarray:uint16:2,3",
            "ndarray:uint16:-1",
            "ndarray::4",
            "ndarrays",
        ] {
            assert_eq!(IdArray::parse(encoding), None, "{encoding}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_ids_or_refused(value in prop::collection::vec(any::<u8>(), 0..20)) {
            for encoding in ["ndarray", "ndarray:uint16", "ndarray:int64", "ndarray:uint8:3"] {
                let _ = decode(encoding, &value);
            }
        }
    }
}
