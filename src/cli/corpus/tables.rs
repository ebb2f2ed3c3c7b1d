//! The report's tables: sources with their licences and what was dropped, and lengths.

use std::fmt::Write;

use quick_xml::escape::escape;

use crate::cli::corpus::chart::spark;
use crate::cli::corpus::facts::{Facts, InstitutionFacts, SourceFacts, percent, reasons};
use crate::cli::corpus::report::{Colored, named};
use crate::cli::corpus::text::length_cells;
use crate::cli::table::grouped;

/// Every source with its amounts, under its institution.
pub(super) fn sources(facts: &Facts, colored: &Colored<'_>) -> String {
    let mut body = String::new();
    for (institution, color) in colored {
        // Writing to a String cannot fail.
        let _ = writeln!(
            body,
            "<tr class=\"institution\"><th scope=\"rowgroup\" colspan=\"2\">{}</th>{}{}<td \
             class=\"number\">{}</td><td colspan=\"3\"></td></tr>",
            headed(institution, color),
            number(&grouped(institution.train.documents)),
            number(&grouped(institution.train.tokens)),
            escape(percent(institution.share)),
        );
        for source in &institution.sources {
            body += &source_row(source, color);
        }
    }
    let total = format!(
        "<tr><th scope=\"row\" colspan=\"2\">All</th>{}{}{}{}{}{}</tr>",
        number(&grouped(facts.train.documents)),
        number(&grouped(facts.train.tokens)),
        number(""),
        number(&grouped(facts.held_out_split.documents)),
        number(&grouped(facts.held_out_split.tokens)),
        cell(&reasons(&facts.dropped)),
    );
    section(
        "Sources",
        "Under which terms each source is used, what of it is trained on, and what was dropped.",
        "Sources with licences, amounts and what was dropped",
        &[
            ("Source", ""),
            ("Licence", ""),
            ("Documents", "number"),
            ("Training tokens", "number"),
            ("Share", "number"),
            ("Held-out documents", "number"),
            ("Held-out tokens", "number"),
            ("Dropped", ""),
        ],
        &format!("<tbody>\n{body}</tbody>\n<tfoot>\n{total}\n</tfoot>"),
    )
}

fn source_row(source: &SourceFacts, color: &str) -> String {
    let (train, held_out) = (source.train.amount, source.held_out.amount);
    format!(
        "<tr class=\"source\"><th scope=\"row\">{}</th><td class=\"licence\">{}</td>{}{}<td \
         class=\"number\">{}<span class=\"share\">{}</span></td>{}{}{}</tr>\n",
        escape(own_name(source)),
        escape(&source.licence),
        number(&grouped(train.documents)),
        number(&grouped(train.tokens)),
        spark(source.share, color),
        escape(percent(source.share)),
        number(&grouped(held_out.documents)),
        number(&grouped(held_out.tokens)),
        cell(&reasons(&source.dropped)),
    )
}

/// How long the documents and the chunks of every source are.
pub(super) fn lengths(colored: &Colored<'_>) -> String {
    let mut body = String::new();
    for (institution, color) in colored {
        let _ = writeln!(
            body,
            "<tr class=\"institution\"><th scope=\"rowgroup\" colspan=\"10\">{}</th></tr>",
            headed(institution, color)
        );
        for source in &institution.sources {
            let summaries = [&source.train.document_lengths, &source.train.chunk_lengths];
            let cells = summaries.map(|summary| {
                let cells = length_cells(summary.as_ref()).map(|text| number(&text));
                cells.concat()
            });
            let _ = writeln!(
                body,
                "<tr class=\"source\"><th scope=\"row\">{}</th>{}{}{}</tr>",
                escape(own_name(source)),
                cells[0],
                number(&grouped(source.train.amount.chunks)),
                cells[1]
            );
        }
    }
    let number = |name| (name, "number");
    section(
        "Lengths",
        "Training documents, and the chunks that they are cut into, in tokens.",
        "Lengths of documents and chunks by source",
        &[
            ("Source", ""),
            number("Documents: mean"),
            number("median"),
            number("95 %"),
            number("longest"),
            number("Chunks"),
            number("Chunks: mean"),
            number("median"),
            number("95 %"),
            number("longest"),
        ],
        &format!("<tbody>\n{body}</tbody>"),
    )
}

fn section(title: &str, lead: &str, caption: &str, heads: &[(&str, &str)], body: &str) -> String {
    let mut cells = String::new();
    for (name, class) in heads {
        let _ = write!(cells, "<th scope=\"col\" class=\"{class}\">{name}</th>");
    }
    format!(
        "<section>\n<h2>{title}</h2>\n<p class=\"lead\">{lead}</p>\n<div class=\"scroll\">\n\
         <table>\n<caption>{caption}</caption>\n<thead>\n<tr>{cells}</tr>\n</thead>\n{body}\n\
         </table>\n</div>\n</section>\n"
    )
}

fn headed(institution: &InstitutionFacts, color: &str) -> String {
    format!(
        "<span class=\"swatch {color}\"></span>{}",
        named(institution)
    )
}

/// A source's name within its institution.
fn own_name(source: &SourceFacts) -> &str {
    source
        .name
        .split_once('/')
        .map_or(source.name.as_str(), |(_, own)| own)
}

fn cell(text: &str) -> String {
    format!("<td>{}</td>", escape(text))
}

fn number(text: &str) -> String {
    format!("<td class=\"number\">{}</td>", escape(text))
}
