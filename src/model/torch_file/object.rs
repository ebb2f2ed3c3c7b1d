//! The values of a pickle, as plain data in one table.
//!
//! Nothing here does anything: what a pickle would have made by calling a class or a function that
//! is not known is an opaque value, which can be described and never used. Values refer to each
//! other by number, so that shared and even circular ones need no recursion. Text stays where it
//! stands in the pickle.

use std::fmt::Write as _;
use std::ops::Range;

use tch::Kind;

/// The longest piece of a file's own text that a message shows.
const SHOWN_MAX: usize = 120;
/// Dimensions of a tensor; libtorch allows no more.
const DIMENSIONS_MAX: usize = 64;

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
    storage: Storage,
    offset: u64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// Where a tensor lies. The file behind it was not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRecord {
    pub kind: Kind,
    pub shape: Vec<i64>,
    /// Name of the storage in the archive.
    pub(super) key: String,
    /// Numbers in the storage.
    pub(super) elements: u64,
    /// The first number of the tensor.
    pub(super) offset: u64,
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

/// A value to look at.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    objects: &'a Objects,
    id: Id,
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

    pub(super) fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    fn value(&self, id: Id) -> Value<'_> {
        Value { objects: self, id }
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

    /// The tensor that `(storage, offset, shape, strides, …)` describe; none where they do not.
    pub(super) fn view(&self, arguments: &[Id]) -> Option<View> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
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

impl<'a> Value<'a> {
    fn object(self) -> &'a Object {
        self.objects.object(self.id)
    }

    /// The entry of a dictionary under this key; the last one where there are several.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let mut entries = self.entries()?.rev();
        let found = entries.find(|(name, _)| name.text() == Some(key))?;
        Some(found.1)
    }

    /// The entries of a dictionary.
    pub fn entries(
        self,
    ) -> Option<impl DoubleEndedIterator<Item = (Value<'a>, Value<'a>)> + ExactSizeIterator> {
        let Object::Dict(entries) = self.object() else {
            return None;
        };
        let objects = self.objects;
        let value = |&(key, value): &(Id, Id)| (objects.value(key), objects.value(value));
        Some(entries.iter().map(value))
    }

    /// The items of a list, a tuple or a set.
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Value<'a>>> {
        let objects = self.objects;
        let items = objects.items(self.id)?;
        Some(items.iter().map(|&item| objects.value(item)))
    }

    pub fn text(self) -> Option<&'a str> {
        match self.object() {
            Object::Text(span) => Some(self.objects.text(span)),
            _ => None,
        }
    }

    pub fn integer(self) -> Option<i64> {
        match *self.object() {
            Object::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// An integer or a float.
    pub fn number(self) -> Option<f64> {
        match *self.object() {
            Object::Integer(number) => Some(number as f64),
            Object::Float(number) => Some(number),
            _ => None,
        }
    }

    pub fn boolean(self) -> Option<bool> {
        match *self.object() {
            Object::Bool(is) => Some(is),
            _ => None,
        }
    }

    pub fn is_none(self) -> bool {
        matches!(self.object(), Object::None)
    }

    pub fn tensor(self) -> Option<TensorRecord> {
        let Object::Tensor(view) = self.object() else {
            return None;
        };
        let &View {
            storage:
                Storage {
                    kind,
                    key,
                    elements,
                },
            offset,
            ref shape,
            ref strides,
        } = &**view;
        Some(TensorRecord {
            kind,
            shape: shape.clone(),
            key: self.objects.value(key).text().unwrap_or("").to_owned(),
            elements,
            offset,
            strides: strides.clone(),
        })
    }

    /// What kind of value it is, for messages.
    pub fn describe(self) -> String {
        let what = match self.object() {
            Object::None => "None",
            Object::Bool(_) => "a boolean",
            Object::Integer(_) | Object::BigInteger => "an integer",
            Object::Float(_) => "a float",
            Object::Text(_) => "a text",
            Object::Bytes => "bytes",
            Object::Global(module, name) => {
                let text = |span| shown(self.objects.text(span));
                return format!("the name {}.{}", text(module), text(name));
            }
            Object::Tuple(_) => "a tuple",
            Object::List(_) => "a list",
            Object::Set(_) => "a set",
            Object::Dict(_) => "a dictionary",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
            Object::Opaque(Opaque::Changed) => "a value that its class would have changed",
            Object::Opaque(Opaque::Named(words)) => words,
            Object::Opaque(Opaque::MadeBy(maker)) => {
                return match self.objects.object(*maker) {
                    Object::Global(..) => format!(
                        "what {} would have made",
                        self.objects.value(*maker).describe()
                    ),
                    _ => "what an unknown function would have made".to_owned(),
                };
            }
        };
        what.to_owned()
    }
}

/// A text of the file as a message may show it: short and without control characters.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == SHOWN_MAX {
            shown.push('…');
            break;
        }
        if letter.is_control() {
            write!(shown, "{}", letter.escape_unicode()).expect("a String takes everything");
        } else {
            shown.push(letter);
        }
    }
    shown
}
