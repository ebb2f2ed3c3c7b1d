//! Looking at the values of a pickle: what is asked for by name and kind, and nothing else.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use tch::Kind;

use crate::model::torch_file::object::{Id, Object, Objects, Opaque, Storage, View};

/// The longest piece of a file's own text that a message shows.
const SHOWN_MAX: usize = 120;

/// A value to look at.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    objects: &'a Objects,
    id: Id,
}

/// Where a tensor lies. The file behind it was not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRecord {
    pub kind: Kind,
    pub shape: Vec<i64>,
    /// Name of the storage in the archive.
    pub(super) key: String,
    /// Numbers in the storage.
    pub(in crate::model) elements: u64,
    /// The first number of the tensor.
    pub(super) offset: u64,
    pub(super) strides: Vec<i64>,
}

impl<'a> Value<'a> {
    /// What was saved.
    pub(super) fn root(objects: &'a Objects) -> Self {
        Self {
            objects,
            id: objects.root,
        }
    }

    fn other(self, id: Id) -> Self {
        Self {
            objects: self.objects,
            id,
        }
    }

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
        let value = move |&(key, value): &(Id, Id)| (self.other(key), self.other(value));
        Some(entries.iter().map(value))
    }

    /// The items of a list, a tuple or a set.
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Value<'a>>> {
        let items = self.objects.items(self.id)?;
        Some(items.iter().map(move |&item| self.other(item)))
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
            key: self.other(key).text().unwrap_or("").to_owned(),
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
                    Object::Global(..) => {
                        format!("what {} would have made", self.other(*maker).describe())
                    }
                    _ => "what an unknown function would have made".to_owned(),
                };
            }
        };
        what.to_owned()
    }
}

impl TensorRecord {
    /// How many numbers it has, after a check that they lie one after the other in its storage.
    pub(super) fn numbers(&self) -> Result<usize> {
        let mut numbers = 1_i64;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            ensure!(
                size == 1 || stride == numbers,
                "its numbers do not lie row by row: strides {:?} of shape {:?}",
                self.strides,
                self.shape
            );
            let product = numbers.checked_mul(size);
            numbers = product.context("it has more numbers than can be counted")?;
        }
        let end = self.offset.checked_add(numbers as u64);
        ensure!(
            end.is_some_and(|end| end <= self.elements),
            "it has {numbers} numbers from number {} on, but its storage holds {}",
            self.offset,
            self.elements
        );
        usize::try_from(numbers).context("it has more numbers than memory")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(shape: &[i64], strides: &[i64], offset: u64) -> TensorRecord {
        TensorRecord {
            kind: Kind::Float,
            shape: shape.to_vec(),
            key: "0".to_owned(),
            elements: 12,
            offset,
            strides: strides.to_vec(),
        }
    }

    #[test]
    fn numbers_lie_one_after_the_other() {
        let numbers = |shape: &[i64], strides: &[i64], offset| {
            let numbers = record(shape, strides, offset).numbers();
            numbers.map_err(|error| error.to_string())
        };
        assert_eq!(numbers(&[], &[], 11), Ok(1));
        assert_eq!(numbers(&[2, 3], &[3, 1], 6), Ok(6));
        assert_eq!(numbers(&[2, 1, 3], &[3, 99, 1], 0), Ok(6));
        assert_eq!(
            numbers(&[2, 3], &[1, 2], 0),
            Err("its numbers do not lie row by row: strides [1, 2] of shape [2, 3]".to_owned())
        );
        assert_eq!(
            numbers(&[2, 3], &[3, 1], 7),
            Err("it has 6 numbers from number 7 on, but its storage holds 12".to_owned())
        );
        assert_eq!(
            numbers(&[], &[], u64::MAX),
            Err(format!(
                "it has 1 numbers from number {} on, but its storage holds 12",
                u64::MAX
            ))
        );
        assert_eq!(
            numbers(&[4, 1 << 62], &[1 << 62, 1], 0),
            Err("it has more numbers than can be counted".to_owned())
        );
    }
}
