//! Parts of XML: the start of an element, names without their prefixes, characters by their names.

use quick_xml::escape::{EscapeError, resolve_html5_entity, unescape};
use quick_xml::events::{BytesRef, BytesStart};

/// The start of an element. Names are without their prefixes.
pub struct Element<'a> {
    pub name: &'a str,
    pub start: &'a BytesStart<'a>,
}

/// Why a piece of XML cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Malformed,
    /// A name stands for a character, and is not known.
    Entity,
}

impl Element<'_> {
    /// The value of an attribute, if it is there.
    ///
    /// # Errors
    /// It, or what stands before it, is not well-formed.
    pub fn attribute(&self, name: &str) -> Result<Option<String>, Flaw> {
        let found = self.start.try_get_attribute(name);
        let Some(found) = found.map_err(|_| Flaw::Malformed)? else {
            return Ok(None);
        };
        let value = std::str::from_utf8(&found.value).map_err(|_| Flaw::Malformed)?;
        match unescape(value) {
            Ok(value) if value.contains('\0') => Err(Flaw::Entity),
            Ok(value) => Ok(Some(value.into_owned())),
            Err(EscapeError::UnrecognizedEntity(..)) => Err(Flaw::Entity),
            Err(_) => Err(Flaw::Malformed),
        }
    }
}

/// The name without its prefix.
pub fn local_name(name: &[u8]) -> &str {
    let name = std::str::from_utf8(name).unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

/// The characters that a reference stands for.
pub fn resolve(reference: &BytesRef<'_>) -> Option<String> {
    if reference.is_char_ref() {
        let character = reference.resolve_char_ref().ok().flatten()?;
        return (character != '\0').then(|| character.to_string());
    }
    let name = reference.decode().ok()?;
    resolve_html5_entity(&name).map(str::to_owned)
}
