//! The elements of JATS, by what is made of them.

use crate::prepare::readers::xml::element::{Element, Flaw};

/// Elements that are left out with all that is in them.
const LEFT_OUT: [&str; 37] = [
    "alt-text",
    "array",
    "back",
    "chem-struct-wrap",
    "contrib-group",
    "disp-formula",
    "disp-formula-group",
    "fig",
    "fig-group",
    "floats-group",
    "fn",
    "fn-group",
    "glyph-data",
    "graphic",
    "inline-graphic",
    "inline-media",
    "kwd-group",
    "label",
    "long-desc",
    "math",
    "media",
    "object-id",
    "permissions",
    "private-char",
    "processing-meta",
    "ref-list",
    "response",
    "sec-meta",
    "sub-article",
    "supplementary-material",
    "table",
    "table-wrap",
    "table-wrap-foot",
    "table-wrap-group",
    "tex-math",
    "trans-abstract",
    "trans-title-group",
];

/// Elements that are lines of their own.
pub const LINES: [&str; 19] = [
    "article-title",
    "attrib",
    "boxed-text",
    "code",
    "def-item",
    "disp-quote",
    "list",
    "list-item",
    "p",
    "preformat",
    "sec",
    "sig",
    "speech",
    "statement",
    "subtitle",
    "term",
    "title",
    "verse-group",
    "verse-line",
];

/// Those of the elements left out that stand on lines of their own, also within a sentence.
const BLOCKS: [&str; 13] = [
    "array",
    "chem-struct-wrap",
    "disp-formula",
    "disp-formula-group",
    "fig",
    "fig-group",
    "graphic",
    "media",
    "ref-list",
    "supplementary-material",
    "table",
    "table-wrap",
    "table-wrap-group",
];

/// Abstracts that are no prose.
const ABSTRACTS_LEFT_OUT: [&str; 3] = ["graphical", "teaser", "toc"];

pub fn is_left_out(element: &Element<'_>) -> Result<bool, Flaw> {
    let attribute = |name: &str| Ok(element.attribute(name)?.unwrap_or_default());
    Ok(match element.name {
        "xref" => matches!(attribute("ref-type")?.as_str(), "fn" | "table-fn"),
        "abstract" => ABSTRACTS_LEFT_OUT.contains(&attribute("abstract-type")?.as_str()),
        name => LEFT_OUT.contains(&name),
    })
}

/// Whether an element that is left out would part the words around it.
pub fn is_block(name: &str, open: &[String]) -> bool {
    BLOCKS.contains(&name) && !open.iter().any(|around| around == "inline-formula")
}

/// Whether an element of the article is part of its text: the title, an abstract, the body.
pub fn is_kept(name: &str, open: &[String]) -> bool {
    let parent = open.last().map_or("", String::as_str);
    match name {
        "article-title" | "subtitle" => parent == "title-group",
        "abstract" => true,
        "body" => parent == "article",
        _ => false,
    }
}
