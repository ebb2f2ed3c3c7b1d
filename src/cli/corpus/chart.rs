//! The report's pictures as inline SVG.
//!
//! Numbers have two digits behind the point, so that equal corpora give equal pages.

use std::fmt::Write;

use quick_xml::escape::escape;

use crate::cli::corpus::facts::{Facts, InstitutionFacts, SourceFacts, edge, percent};
use crate::cli::corpus::palette::class;
use crate::cli::table::grouped;
use crate::corpus::lengths::Bin;

/// The bar of all institutions, in its own units.
const WHOLE_WIDTH: f64 = 1000.0;
const WHOLE_HEIGHT: f64 = 46.0;
/// A segment as wide as this has room for its share in figures.
const LABELED_WIDTH: f64 = 58.0;
const GAP: f64 = 2.0;

/// A histogram, in pixels of a narrow window.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 126.0;
const LEFT: f64 = 42.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 10.0;
const BASE: f64 = HEIGHT - 20.0;
/// The least room for a label of the axis.
const LABEL_WIDTH: f64 = 32.0;

/// What all histograms of a report share, so that they can be compared.
pub(super) struct Axes {
    /// The bins go from 2^low up to 2^(high + 1).
    low: u32,
    high: u32,
    /// The share that reaches the top.
    share_max: f64,
    /// Tokens of the longest chunk.
    max_length: u32,
}

/// The institutions' shares of the training tokens as one bar; `ranked` from the largest on.
pub(super) fn whole(ranked: &[&InstitutionFacts]) -> String {
    let words = ranked
        .iter()
        .map(|each| format!("{} {}", each.name, percent(each.share)));
    let words: Vec<String> = words.collect();
    let label = format!("Training tokens by institution: {}", words.join(", "));
    let mut svg = format!(
        "<svg class=\"whole\" viewBox=\"0 0 {WHOLE_WIDTH} {WHOLE_HEIGHT}\" role=\"img\" \
         aria-label=\"{}\">\n",
        escape(&label)
    );
    let mut x = 0.0;
    for (rank, institution) in ranked.iter().enumerate() {
        let width = institution.share * WHOLE_WIDTH;
        let drawn = (width - GAP).max(1.0);
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<g class=\"{}\"><title>{}</title><rect class=\"fill\" x=\"{x:.2}\" y=\"0\" \
             width=\"{drawn:.2}\" height=\"{WHOLE_HEIGHT}\" rx=\"2\"/></g>",
            class(rank),
            escape(&words[rank]),
        );
        if width >= LABELED_WIDTH {
            let (at, middle) = (x + 9.0, WHOLE_HEIGHT / 2.0 + 5.0);
            let _ = writeln!(
                svg,
                "<text x=\"{at:.2}\" y=\"{middle:.2}\">{}</text>",
                percent(institution.share)
            );
        }
        x += width;
    }
    svg + "</svg>"
}

impl Axes {
    /// None where no source has a training document.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        let sources = || facts.sources();
        let powers = || sources().flat_map(bins).map(|bin| bin.from.ilog2());
        let shares = sources().flat_map(|source| {
            let all = bins(source).iter();
            all.flat_map(|bin| [documents(bin, source), tokens(bin, source)])
        });
        let highest = shares.fold(0.0, f64::max);
        Some(Self {
            low: powers().min()?,
            high: powers().max()?,
            // Tenths, so that both labels are round.
            share_max: (highest * 10.0).ceil().max(1.0) / 10.0,
            max_length: facts.max_length,
        })
    }

    /// Where lengths from this power of two on begin.
    fn x(&self, power: f64) -> f64 {
        let bins = f64::from(self.high - self.low + 1);
        LEFT + (power - f64::from(self.low)) / bins * (RIGHT - LEFT)
    }

    fn y(&self, share: f64) -> f64 {
        BASE - share / self.share_max * (BASE - TOP)
    }

    /// A source's histogram: bars for its documents, a line for its tokens.
    pub(super) fn histogram(&self, source: &SourceFacts, color: &str) -> String {
        let label = format!("Lengths of the training documents of {}", source.name);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n{}",
            escape(&label),
            self.frame()
        );
        for bin in bins(source) {
            let (share, power) = (documents(bin, source), f64::from(bin.from.ilog2()));
            let (x, y) = (self.x(power) + 1.0, self.y(share));
            let width = self.x(power + 1.0) - x - 1.0;
            let _ = writeln!(
                svg,
                "<g class=\"{color}\"><title>{} to {} tokens: {} of the documents, {} of the \
                 tokens</title><rect class=\"fill\" x=\"{x:.2}\" y=\"{y:.2}\" \
                 width=\"{width:.2}\" height=\"{:.2}\"/></g>",
                grouped(bin.from),
                grouped(bin.from * 2 - 1),
                escape(percent(share)),
                escape(percent(tokens(bin, source))),
                BASE - y
            );
        }
        let _ = writeln!(
            svg,
            "<path class=\"tokens\" d=\"{}\"/>",
            self.outline(source)
        );
        svg + "</svg>"
    }

    /// Grid, labels, base line and the mark of the longest chunk.
    fn frame(&self) -> String {
        let mut svg = String::new();
        for share in [self.share_max, self.share_max / 2.0] {
            let y = self.y(share);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>\
                 <text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"end\">{:.0} %</text>",
                LEFT - 5.0,
                y + 4.0,
                share * 100.0
            );
        }
        let bins = f64::from(self.high - self.low + 1);
        let every = (LABEL_WIDTH * bins / (RIGHT - LEFT)).ceil().max(1.0) as usize;
        for power in (self.low..=self.high + 1).step_by(every) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"middle\">{}</text>",
                self.x(f64::from(power)),
                HEIGHT - 6.0,
                edge(1 << power)
            );
        }
        let limit = self.x(f64::from(self.max_length).log2());
        if limit < RIGHT {
            let _ = writeln!(
                svg,
                "<line class=\"limit\" x1=\"{limit:.2}\" x2=\"{limit:.2}\" y1=\"{TOP}\" \
                 y2=\"{BASE}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<line class=\"base\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{BASE}\" y2=\"{BASE}\"/>"
        );
        svg
    }

    /// The share of the tokens over the bins, as steps.
    fn outline(&self, source: &SourceFacts) -> String {
        let Some(first) = bins(source).first() else {
            return format!("M{LEFT} {BASE}");
        };
        let mut path = format!("M{:.2} {BASE}", self.x(f64::from(first.from.ilog2())));
        for bin in bins(source) {
            let end = self.x(f64::from(bin.from.ilog2() + 1));
            let _ = write!(path, "V{:.2}H{end:.2}", self.y(tokens(bin, source)));
        }
        path + &format!("V{BASE}")
    }
}

/// A small bar for a table.
pub(super) fn spark(share: f64, color: &str) -> String {
    format!(
        "<svg class=\"spark {color}\" viewBox=\"0 0 64 8\" aria-hidden=\"true\"><rect width=\"64\" \
         height=\"8\"/><rect style=\"fill: currentColor\" width=\"{:.2}\" height=\"8\"/></svg>",
        share * 64.0
    )
}

fn bins(source: &SourceFacts) -> &[Bin] {
    let summary = source.train.document_lengths.as_ref();
    summary.map_or(&[], |summary| summary.histogram.as_slice())
}

fn documents(bin: &Bin, source: &SourceFacts) -> f64 {
    bin.count as f64 / source.train.amount.documents.max(1) as f64
}

fn tokens(bin: &Bin, source: &SourceFacts) -> f64 {
    bin.tokens as f64 / source.train.amount.tokens.max(1) as f64
}
