//! The calls that a pickle asks for, of which those that make up tensors and dictionaries are
//! known. Nothing is called.

use anyhow::{Result, bail};
use tch::Kind;

use super::Machine;
use crate::model::torch_file::object::{Id, Object, Opaque, Storage};

impl Machine {
    /// What a known function makes of its arguments; anything else is opaque.
    pub(super) fn call(&mut self, callable: Id, arguments: Id) -> Result<Id> {
        let unknown = Object::Opaque(Opaque::MadeBy(callable));
        let Some((module, name)) = self.global(callable) else {
            return self.add(unknown);
        };
        let items = match self.objects.object(arguments) {
            Object::Tuple(items) => items.as_slice(),
            _ => bail!("it calls something with what is no tuple"),
        };
        let object = match (module, name, items) {
            ("collections", "OrderedDict", []) | ("collections", "defaultdict", _) => {
                Object::Dict(Vec::new())
            }
            ("torch._utils", "_rebuild_tensor_v2", items) => match self.objects.view(items) {
                Some(view) => Object::Tensor(Box::new(view)),
                None => Object::Opaque(Opaque::Named("a tensor that is described wrongly")),
            },
            // These give what they are given, but for its class.
            ("torch._utils", "_rebuild_parameter", &[first, ..])
            | ("torch", "Size", &[first])
            | ("builtins" | "__builtin__", "set" | "frozenset", &[first]) => return Ok(first),
            _ => unknown,
        };
        self.add(object)
    }

    /// The storage that a persistent id describes: `("storage", class, key, location, numbers)`.
    pub(super) fn storage(&self, id: Id) -> Option<Object> {
        let &[tag, class, key, _location, elements] = self.objects.items(id)? else {
            return None;
        };
        let text = |id: Id| match self.objects.object(id) {
            Object::Text(span) => Some(self.objects.text(span)),
            _ => None,
        };
        if text(tag)? != "storage" {
            return None;
        }
        text(key)?;
        let &Object::Integer(elements) = self.objects.object(elements) else {
            return None;
        };
        let Some(kind) = self.global(class).and_then(kind_of) else {
            return Some(Object::Opaque(Opaque::MadeBy(class)));
        };
        let elements = u64::try_from(elements).ok()?;
        Some(Object::Storage(Storage {
            kind,
            key,
            elements,
        }))
    }

    fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.objects.object(id) {
            Object::Global(module, name) => {
                Some((self.objects.text(module), self.objects.text(name)))
            }
            _ => None,
        }
    }
}

/// The numbers of a storage class of torch.
fn kind_of((module, name): (&str, &str)) -> Option<Kind> {
    Some(match (module, name) {
        ("torch", "FloatStorage") => Kind::Float,
        ("torch", "DoubleStorage") => Kind::Double,
        ("torch", "HalfStorage") => Kind::Half,
        ("torch", "BFloat16Storage") => Kind::BFloat16,
        ("torch", "LongStorage") => Kind::Int64,
        ("torch", "IntStorage") => Kind::Int,
        ("torch", "ShortStorage") => Kind::Int16,
        ("torch", "CharStorage") => Kind::Int8,
        ("torch", "ByteStorage") | ("torch.storage", "UntypedStorage") => Kind::Uint8,
        ("torch", "BoolStorage") => Kind::Bool,
        _ => return None,
    })
}
