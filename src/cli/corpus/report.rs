//! A corpus as a page for people: one HTML file that needs nothing else, to read, to print, and to
//! attach to a data-protection file.
//!
//! It is well-formed XML too, has no script, and loads nothing from anywhere.

use std::fmt::Write;

use quick_xml::escape::escape;

use crate::cli::corpus::chart::{self, Axes};
use crate::cli::corpus::facts::{Facts, InstitutionFacts, percent};
use crate::cli::corpus::palette::{STYLE, class};
use crate::cli::corpus::tables;
use crate::cli::table::grouped;

/// The institutions with the class of their color, in manifest order.
pub(super) type Colored<'a> = Vec<(&'a InstitutionFacts, String)>;

pub(super) fn render(facts: &Facts) -> String {
    let mut ranked: Vec<&InstitutionFacts> = facts.institutions.iter().collect();
    ranked.sort_by_key(|institution| u64::MAX - institution.train.tokens);
    let rank = |id: &str| {
        ranked
            .iter()
            .position(|each| each.id == id)
            .unwrap_or(usize::MAX)
    };
    let institutions = facts.institutions.iter();
    let colored: Colored<'_> = institutions
        .map(|each| (each, class(rank(&each.id))))
        .collect();
    let title = format!("Corpus {}", facts.name);
    format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n\
         <meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         {}{}{}{}{}{}</main>\n</body>\n</html>\n",
        head(facts),
        whose(&ranked),
        how_long(facts, &colored),
        tables::sources(facts, &colored),
        tables::lengths(&colored),
        foot(facts),
        title = escape(&title),
    )
}

fn head(facts: &Facts) -> String {
    let documents = facts.train.documents + facts.held_out_split.documents;
    let dropped: u64 = facts.dropped.values().sum();
    let figures = [
        ("Training tokens", grouped(facts.train.tokens)),
        ("Documents", grouped(documents)),
        ("Institutions", grouped(facts.institutions.len() as u64)),
        ("Sources", grouped(facts.sources().count() as u64)),
        ("Held-out tokens", grouped(facts.held_out_split.tokens)),
        ("Documents dropped", grouped(dropped)),
    ];
    let mut boxes = String::new();
    for (name, value) in figures {
        // Writing to a String cannot fail.
        let _ = writeln!(boxes, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    let code = |digest: &str| format!("<code>{}</code>", escape(digest));
    let mut origin = vec![
        ("Manifest", code(&facts.manifest_digest)),
        (
            "Tokenizer",
            format!(
                "{}, {} ids",
                code(&facts.tokenizer_digest),
                grouped(u64::from(facts.vocab_size))
            ),
        ),
        (
            "Chunks",
            format!("at most {} tokens", grouped(u64::from(facts.max_length))),
        ),
    ];
    if let Some(date) = &facts.manifest_dated {
        origin.insert(
            0,
            (
                "Prepared",
                format!("{} UTC", date.replace('T', " ").replace('Z', "")),
            ),
        );
    }
    let mut lines = String::new();
    for (name, value) in origin {
        let _ = writeln!(lines, "<dt>{name}</dt><dd>{value}</dd>");
    }
    format!(
        "<header>\n<p class=\"kind\">Corpus</p>\n<h1>{}</h1>\n<dl class=\"figures\">\n{boxes}\
         </dl>\n<dl class=\"origin\">\n{lines}</dl>\n</header>\n",
        escape(&facts.name)
    )
}

/// The stacked bar and its legend.
fn whose(ranked: &[&InstitutionFacts]) -> String {
    let mut items = String::new();
    for (rank, institution) in ranked.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            items,
            "<li><span class=\"swatch {}\"></span><span>{}</span><span class=\"number\">{}</span>\
             <span class=\"number\">{}</span></li>",
            class(rank),
            named(institution),
            grouped(institution.train.tokens),
            escape(percent(institution.share)),
        );
    }
    format!(
        "<section>\n<h2>Whose text it is</h2>\n<p class=\"lead\">Each institution’s part of the \
         training tokens.</p>\n{}\n<ul class=\"legend\">\n{items}</ul>\n</section>\n",
        chart::whole(ranked)
    )
}

/// The histograms as small multiples.
fn how_long(facts: &Facts, colored: &Colored<'_>) -> String {
    let Some(axes) = Axes::of(facts) else {
        return String::new();
    };
    let mut figures = String::new();
    for (institution, color) in colored {
        for source in &institution.sources {
            let Some(lengths) = &source.train.document_lengths else {
                continue;
            };
            let _ = writeln!(
                figures,
                "<figure><figcaption><strong>{}</strong>{} documents · median {}</figcaption>\n\
                 {}</figure>",
                escape(&source.name),
                grouped(source.train.amount.documents),
                grouped(lengths.median),
                axes.histogram(source, color)
            );
        }
    }
    let limit = grouped(u64::from(facts.max_length));
    format!(
        "<section>\n<h2>How long the documents are</h2>\n<p class=\"lead\">Training documents by \
         their length in tokens, on one logarithmic axis for all sources (k is 1,024).</p>\n\
         <p class=\"key\"><span><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><rect \
         class=\"fill\" \
         y=\"1\" width=\"22\" height=\"11\"/></svg>share of the documents</span>\
         <span><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><path class=\"tokens\" \
         d=\"M0 10H11V3H22\"/></svg>share of the tokens</span>\
         <span><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\"><line class=\"limit\" x1=\"11\" \
         x2=\"11\" y1=\"0\" y2=\"12\"/></svg>longest chunk, {limit} tokens: longer documents are \
         cut</span></p>\n<div class=\"multiples\">\n{figures}</div>\n</section>\n"
    )
}

fn foot(facts: &Facts) -> String {
    format!(
        "<footer>\n<p>Tokens include the [CLS] and [SEP] of every chunk. {} of the documents, \
         chosen by a hash of their text, are held out from training. The lengths are those of \
         training documents; a percentile is the shortest length that as many documents do not \
         exceed.</p>\n<p>The digests are blake3: of the manifest, which names the digest of \
         every shard, and of the tokenizer. The date is that of the manifest’s file. No text of \
         any document is on this page.</p>\n<p>Made by <code>cohort corpus show --report</code>, \
         version {}.</p>\n</footer>\n",
        escape(percent(facts.held_out)),
        env!("CARGO_PKG_VERSION")
    )
}

/// An institution's name with its country.
pub(super) fn named(institution: &InstitutionFacts) -> String {
    let name = escape(&institution.name);
    match &institution.country {
        Some(country) => format!("{name} <span class=\"country\">{}</span>", escape(country)),
        None => name.into_owned(),
    }
}
