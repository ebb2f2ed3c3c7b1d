//! Follows the quotes of a table of separated values, and stops where they make no sense.
//!
//! The parser above forgives: what follows a closing quote becomes text of the field, and a quote
//! that is open at the end of the file closes there. Both join rows, and so patients, without a
//! word. Here they are [`Fault`]s. The bytes pass unchanged, up to the fault.

use std::io::{self, Read};

use crate::prepare::fault::Fault;

/// Passes on what `input` gives.
pub struct Quotes<R> {
    input: R,
    separator: u8,
    state: State,
    /// Line of the next byte, from 1, and the line on which the last quoted field began.
    line: u64,
    field_line: u64,
    /// Found in what was read last, and told once everything before it is handed out.
    fault: Option<Fault>,
}

/// Where in a row the next byte stands.
#[derive(Clone, Copy)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of a doubled one.
    AfterQuote,
}

impl<R> Quotes<R> {
    pub fn new(input: R, separator: u8) -> Self {
        Self {
            input,
            separator,
            state: State::FieldStart,
            line: 1,
            field_line: 1,
            fault: None,
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        let ends = byte == self.separator || matches!(byte, b'\n' | b'\r');
        self.state = match (self.state, byte) {
            (State::FieldStart, b'"') => {
                self.field_line = self.line;
                State::Quoted
            }
            (State::FieldStart | State::Unquoted | State::AfterQuote, _) if ends => {
                State::FieldStart
            }
            (State::FieldStart | State::Unquoted, _) => State::Unquoted,
            (State::Quoted, b'"') => State::AfterQuote,
            (State::Quoted, _) | (State::AfterQuote, b'"') => State::Quoted,
            (State::AfterQuote, _) => {
                return Err(Fault::StrayQuote {
                    line: self.line,
                    field_line: self.field_line,
                });
            }
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = self.fault.clone() {
            return Err(fault.into());
        }
        let count = self.input.read(buffer)?;
        if count == 0 && !buffer.is_empty() && matches!(self.state, State::Quoted) {
            let line = self.field_line;
            return Err(Fault::OpenQuote { line }.into());
        }
        for (at, byte) in buffer[..count].iter().enumerate() {
            if let Err(fault) = self.step(*byte) {
                self.fault = Some(fault.clone());
                return if at > 0 { Ok(at) } else { Err(fault.into()) };
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use csv::{QuoteStyle, WriterBuilder};
    use onig::Regex;
    use proptest::prelude::*;

    use super::*;

    /// Reads in pieces, so that every state meets every boundary.
    fn pass(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Fault>) {
        let mut quotes = Quotes::new(bytes, b',');
        let (mut passed, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match quotes.read(&mut buffer) {
                Ok(0) => return (passed, None),
                Ok(count) => passed.extend_from_slice(&buffer[..count]),
                Err(error) => {
                    let fault = error.downcast::<Fault>().expect("a fault of the quotes");
                    return (passed, Some(fault));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn written_tables_pass_whole(
            rows in prop::collection::vec(prop::collection::vec("[a\", \r\n]{0,6}", 3), 1..6),
            always in any::<bool>(),
            piece in 1_usize..9,
        ) {
            let style = if always { QuoteStyle::Always } else { QuoteStyle::Necessary };
            let mut writer = WriterBuilder::new().quote_style(style).from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).expect("memory takes any row");
            }
            let table = writer.into_inner().expect("memory takes any row");
            prop_assert_eq!(pass(&table, piece), (table.clone(), None));
        }

        #[test]
        fn what_passes_is_what_the_grammar_allows(
            table in "[a\",\r\n]{0,24}",
            piece in 1_usize..9,
        ) {
            // RFC 4180, where a field without quotes may hold them after its first character.
            let field = r#"(?:"(?:[^"]|"")*+"|(?!")[^,\r\n]*+)"#;
            let grammar = Regex::new(&format!(r"\A{field}(?:[,\r\n]{field})*+\z"));
            let allowed = grammar.expect("the pattern is valid").is_match(&table);
            let (passed, fault) = pass(table.as_bytes(), 4096);
            prop_assert_eq!(fault.is_none(), allowed);
            prop_assert!(table.as_bytes().starts_with(&passed));
            prop_assert_eq!(pass(table.as_bytes(), piece), (passed, fault));
        }
    }

    #[test]
    fn faults_stand_where_they_begin() {
        let open = |line| Some(Fault::OpenQuote { line });
        let stray = |line, field_line| Some(Fault::StrayQuote { line, field_line });
        for (table, passed, fault) in [
            ("a,\"b\nc,d\n", 9, open(1)),
            ("a\n\n\"", 4, open(3)),
            ("a,\"b\"\"", 6, open(1)),
            ("a,\"b\" ,c", 5, stray(1, 1)),
            ("a\n\"b\nc,\"d\"", 8, stray(3, 2)),
            ("a\"b\",c\"", 7, None),
            (" \"a\",b", 6, None),
        ] {
            assert_eq!(
                pass(table.as_bytes(), 3),
                (table.as_bytes()[..passed].to_vec(), fault),
                "{table:?}"
            );
        }
    }
}
