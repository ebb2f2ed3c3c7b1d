//! Which fields of a record make which documents: `note`, `[dialogue, note]` for a document each,
//! `{join: [title, abstract]}` for one of both, or a list of all these.

use std::fmt;

use garde::Validate;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The fields of each document of a record; several are joined, a line after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Validate)]
#[serde(transparent)]
pub struct Fields {
    #[garde(length(min = 1), inner(length(min = 1), inner(length(min = 1))))]
    pub documents: Vec<Vec<String>>,
}

/// The fields of one document.
struct Parts(Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    join: Vec<String>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartsVisitor)
    }
}

struct FieldsVisitor;
struct PartsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name, {join: [field names]}, or a list of these")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Fields, E> {
        let Parts(parts) = PartsVisitor.visit_str(name)?;
        Ok(Fields {
            documents: vec![parts],
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fields, A::Error> {
        let Parts(parts) = PartsVisitor.visit_map(map)?;
        Ok(Fields {
            documents: vec![parts],
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Fields, A::Error> {
        let mut documents = Vec::new();
        while let Some(Parts(parts)) = list.next_element()? {
            documents.push(parts);
        }
        Ok(Fields { documents })
    }
}

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name or {join: [field names]}")
    }

    fn visit_str<E>(self, name: &str) -> Result<Parts, E> {
        Ok(Parts(vec![name.to_owned()]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parts, A::Error> {
        let Join { join } = Join::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Parts(join))
    }
}
