//! Which fields of a record make which documents.

use anyhow::{Result, anyhow};

use crate::prepare::fields::Fields;
use crate::prepare::readers::{Content, Document, Place};
use crate::prepare::text::line_ends::normalize_line_ends;

/// The documents of a record, by the places of their fields among the names.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Every field that is read, once.
    pub names: Vec<String>,
    documents: Vec<Vec<usize>>,
}

impl Layout {
    pub fn new(fields: &Fields) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut place = |name: &String| {
            let known = names.iter().position(|other| other == name);
            known.unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            })
        };
        let document = |parts: &Vec<String>| parts.iter().map(&mut place).collect();
        let documents = fields.documents.iter().map(document).collect();
        Self { names, documents }
    }

    /// The documents of a record that stands at `place`, as [`Self::texts`] says.
    ///
    /// # Errors
    /// A NUL character: formats that escape or count can hold one, and no text does.
    pub fn documents<T: AsRef<str>>(&self, values: &[T], place: &Place) -> Result<Vec<Document>> {
        let mut named = self.names.iter().zip(values);
        if let Some((name, _)) = named.find(|(_, value)| value.as_ref().contains('\0')) {
            return Err(anyhow!(
                "{place}: a NUL character in the field {name:?}, so this is no text\n  hint: set \
                 `text` to the field that holds the document, or write the file anew"
            ));
        }
        let document = |text| Document {
            content: Content::Text(text),
            place: place.clone(),
        };
        Ok(self.texts(values).into_iter().map(document).collect())
    }

    /// The texts of a record whose field `names[i]` has the text `values[i]`: one field as it
    /// stands, several a line after the other without the blank ones. Line ends are normalized.
    fn texts<T: AsRef<str>>(&self, values: &[T]) -> Vec<String> {
        let text = |parts: &Vec<usize>| match parts.as_slice() {
            [only] => values[*only].as_ref().to_owned(),
            several => {
                let parts = several.iter().map(|part| values[*part].as_ref());
                let filled: Vec<&str> = parts.filter(|part| !part.trim().is_empty()).collect();
                filled.join("\n")
            }
        };
        self.documents
            .iter()
            .map(text)
            .map(normalize_line_ends)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_once_and_blank_parts_leave_no_line() {
        let field = |name: &str| name.to_owned();
        let layout = Layout::new(&Fields {
            documents: vec![
                vec![field("title"), field("abstract")],
                vec![field("note")],
                vec![field("note"), field("title")],
            ],
        });
        assert_eq!(layout.names, ["title", "abstract", "note"]);
        assert_eq!(
            layout.texts(&["T", "A\r\nB", " n "]),
            ["T\nA\nB", " n ", " n \nT"]
        );
        assert_eq!(layout.texts(&["T", " ", ""]), ["T", "", "T"]);
    }
}
