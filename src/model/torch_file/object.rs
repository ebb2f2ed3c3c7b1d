//! The values of a pickle, as plain data in one table.
//!
//! Nothing here does anything: what a pickle would have made by calling a class or a function that
//! is not known is an opaque value, which can be described and never used. Values refer to each
//! other by number, so that shared and even circular ones need no recursion. Text stays where it
//! stands in the pickle.

use std::ops::Range;

use tch::Kind;

/// Dimensions of a tensor; libtorch allows no more.
const DIMENSIONS_MAX: usize = 64;
/// Of `_rebuild_tensor_v2`: storage, offset, shape, strides, `requires_grad` and hooks.
const PLAIN_ARGUMENTS: usize = 6;

/// The number of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u32);

/// Bytes of the pickle.
pub(super) type Span = Range<u32>;

/// One value.
#[derive(Debug)]
pub(super) enum Object {
    None,
    Bool(bool),
    Integer(i64),
    /// An integer beyond 64 bits.
    BigInteger,
    Float(f64),
    /// UTF-8, checked.
    Text(Span),
    Bytes,
    /// A class or a function, by its module and its name; both UTF-8, checked.
    Global(Span, Span),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Storage),
    Tensor(Box<View>),
    Opaque(Opaque),
}

/// Why a value is not known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opaque {
    /// It is what this unknown class or function would have made.
    MadeBy(Id),
    /// It was known until the pickle changed it by a method of its class.
    Changed,
    /// Other words for it.
    Named(&'static str),
}

/// The numbers of one or more tensors, in a file of the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    pub(super) kind: Kind,
    /// A text: the file's name.
    pub(super) key: Id,
    pub(super) elements: u64,
}

/// A tensor: some numbers of a storage.
#[derive(Debug)]
pub(super) struct View {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) table: Vec<Object>,
    /// The pickle itself.
    pub(super) bytes: Vec<u8>,
    pub(super) root: Id,
}

impl Objects {
    /// Nothing but a None.
    pub(super) fn empty() -> Self {
        Self {
            table: vec![Object::None],
            bytes: Vec::new(),
            root: Id(0),
        }
    }

    pub(super) fn object(&self, id: Id) -> &Object {
        &self.table[id.0 as usize]
    }

    /// Text that was checked when its value was made.
    pub(super) fn text(&self, span: &Span) -> &str {
        let bytes = &self.bytes[span.start as usize..span.end as usize];
        std::str::from_utf8(bytes).expect("texts are checked when they are read")
    }

    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.object(id) {
            Object::Tuple(items) | Object::List(items) | Object::Set(items) => Some(items),
            _ => None,
        }
    }

    /// The tensor that `(storage, offset, shape, strides, …)` describe; none where they do not. A
    /// seventh argument says what would change the numbers, such as their signs.
    pub(super) fn view(&self, arguments: &[Id]) -> Option<View> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        if arguments.len() > PLAIN_ARGUMENTS {
            return None;
        }
        let &Object::Storage(storage) = self.object(storage) else {
            return None;
        };
        let &Object::Integer(offset) = self.object(offset) else {
            return None;
        };
        let sizes = |id: Id| -> Option<Vec<i64>> {
            let items = self
                .items(id)
                .filter(|items| items.len() <= DIMENSIONS_MAX)?;
            let size = |&item: &Id| match self.object(item) {
                &Object::Integer(size) if size >= 0 => Some(size),
                _ => None,
            };
            items.iter().map(size).collect()
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        (shape.len() == strides.len()).then_some(View {
            storage,
            offset: u64::try_from(offset).ok()?,
            shape,
            strides,
        })
    }
}
