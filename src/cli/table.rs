//! Plain tables for people: columns padded with spaces, numbers to the right.

/// Rows of text under a header.
pub(super) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self::with_columns(header)
    }

    pub(super) fn with_columns<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            header: header.into_iter().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.header.len(),
            "a row has a cell for each column"
        );
        self.rows.push(cells);
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The table as text without a trailing line end. A column whose cells all begin with a digit,
    /// a sign or a dash is set to the right.
    pub(super) fn render(&self) -> String {
        let columns = self.header.len();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells
                .max()
                .unwrap_or(0)
                .max(self.header[column].chars().count())
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric: Vec<bool> = (0..columns)
            .map(|column| {
                self.rows.iter().all(|row| {
                    row[column].starts_with(|first: char| {
                        first.is_ascii_digit() || matches!(first, '-' | '–' | '+')
                    })
                })
            })
            .collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .zip(&numeric)
                .map(|((cell, width), numeric)| {
                    if *numeric {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let rule = widths
            .iter()
            .map(|width| "-".repeat(*width))
            .collect::<Vec<_>>()
            .join("  ");
        let mut lines = vec![line(&self.header), rule];
        lines.extend(self.rows.iter().map(|row| line(row)));
        lines.join("\n")
    }
}

/// A count with thin groups of three digits: `1,234,567`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things in words: `1 step`, `1,234 steps`.
pub(super) fn counted(count: impl Into<u64>, thing: &str) -> String {
    let count = count.into();
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

/// A span of time for people: `2 h 05 min`, `3 min 20 s`, `12 s`.
pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(["source", "tokens"]);
        table.row(vec!["north/notes".to_owned(), grouped(1_234_567)]);
        table.row(vec!["south".to_owned(), grouped(12)]);
        assert_eq!(
            table.render(),
            "source          tokens\n-----------  ---------\nnorth/notes  1,234,567\n\
             south               12"
        );
    }

    #[test]
    fn spans_read_as_a_person_says_them() {
        assert_eq!(
            [12.2, 200.0, 7_500.0].map(span),
            ["12 s", "3 min 20 s", "2 h 05 min"]
        );
    }
}
