//! Giving terms of a domain to a tokenizer: to its free `[unused…]` ids first, then to new ones.
//!
//! A term becomes an added token that must be a word of its own and is looked for after
//! normalization. It takes no space from its left (`lstrip` is off): ` term` becomes the token of
//! the space and that of the term, one id wherever the term stands, and ids still decode to the
//! text itself, line ends before a term included. Inside a longer word the term is left alone, so a
//! text without any term keeps its ids.
//!
//! Its old pieces are those that stood for it after a space, as terms do in running text.
//!
//! Errors name lines of the list of terms, never what stands in them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

use crate::corpus::new_tokens::{NEW_TOKENS_VERSION, NewTokens};
use crate::prepare::tokenizer::TokenizerFiles;

/// Vocabularies grow to a multiple of it, as matrix products like.
const ROWS_MULTIPLE: u32 = 64;
const UNUSED: &str = "[unused";
const TERM_BYTES_MAX: usize = 256;
const TERMS_MAX: usize = 100_000;
/// Lines that an error names before it only counts.
const LINES_MAX: usize = 12;

/// A term with its line in the list, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub text: String,
    pub line: usize,
}

/// A term that is to be a token, with its pieces.
type Wanted<'a> = (&'a Term, Vec<u32>);

/// What came of a list of terms.
pub struct Grown {
    pub files: TokenizerFiles,
    /// Terms that are tokens now.
    pub given: usize,
    /// Lines of terms that were one token already, with or without a space; they stay as they are.
    pub single: Vec<usize>,
    /// `[unused…]` ids that are left.
    pub free: usize,
    /// Rows of the embedding matrix, before and after.
    pub rows: (u32, u32),
}

/// Reads a list of terms, one a line. Empty lines are passed over.
///
/// # Errors
/// A term twice, one that is too long, has a control character or two spaces in a row.
pub fn read_terms(text: &str) -> Result<Vec<Term>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut terms = Vec::new();
    for (line, text) in (1..).zip(text.lines().map(str::trim)) {
        if text.is_empty() {
            continue;
        }
        ensure!(
            text.len() <= TERM_BYTES_MAX,
            "line {line} has {} bytes, a term has at most {TERM_BYTES_MAX}\n  \
             hint: the file of `--terms` has one term a line",
            text.len()
        );
        ensure!(
            !text.contains(char::is_control) && !text.contains("  "),
            "line {line} has a control character or two spaces in a row"
        );
        if let Some(first) = seen.insert(text, line) {
            bail!("line {line} is the term of line {first} once more");
        }
        ensure!(
            terms.len() < TERMS_MAX,
            "there are more than {TERMS_MAX} terms"
        );
        terms.push(Term {
            text: text.to_owned(),
            line,
        });
    }
    ensure!(!terms.is_empty(), "there is no term in it");
    Ok(terms)
}

/// Makes tokens of terms. Where the free ids do not suffice and `extend` is set, the vocabulary
/// grows to a multiple of 64; the ids beyond the last term are `[unused…]` ones.
pub fn grow(files: &TokenizerFiles, terms: &[Term], extend: bool) -> Result<Grown> {
    let old = Old::read(files)?;
    let mut record = match &files.new_tokens {
        Some(bytes) => NewTokens::parse(bytes, &old.digest)?.pieces,
        None => BTreeMap::new(),
    };
    old.expect_new(terms)?;
    let (single, wanted) = old.sort_out(terms)?;
    let mut free = old.free_ids();
    if wanted.len() > free.len() && !extend {
        bail!(
            "{} terms would be new tokens, the tokenizer has {} free [unused…] ids\n  \
             hint: `--grow` adds ids, up to a multiple of {ROWS_MULTIPLE}; or shorten the list",
            wanted.len(),
            free.len()
        );
    }
    let given = wanted.len();
    let mut tokens = Tokens::read(&old.json)?;
    let mut next = old.rows;
    let mut changed = BTreeMap::new();
    for (term, pieces) in wanted {
        let id = free.pop_first().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        tokens.set(id, &term.text, true);
        record.insert(id, pieces);
        changed.insert(id, term);
    }
    if next > old.rows {
        let end = next.next_multiple_of(ROWS_MULTIPLE);
        for id in next..end {
            let text = tokens.unused_name();
            tokens.set(id, &text, false);
            record.insert(id, Vec::new());
            free.insert(id);
        }
        next = end;
    }
    let config = tokens.configure(&files.config)?;
    let tokenizer = tokens.write(&old.json)?;
    old.check(&tokenizer, &changed, next)?;
    let record = NewTokens {
        version: NEW_TOKENS_VERSION,
        tokenizer: blake3::hash(&tokenizer).to_hex().to_string(),
        pieces: record,
    };
    Ok(Grown {
        files: TokenizerFiles {
            tokenizer,
            config,
            new_tokens: Some(pretty(&record)?),
        },
        given,
        single,
        free: free.len(),
        rows: (old.rows, next),
    })
}

/// The tokenizer that is to grow.
struct Old {
    tokenizer: Tokenizer,
    json: Value,
    digest: String,
    rows: u32,
}

impl Old {
    fn read(files: &TokenizerFiles) -> Result<Self> {
        let json = serde_json::from_slice(&files.tokenizer).context("it is not valid JSON")?;
        let tokenizer = load(&files.tokenizer)?;
        let rows = tokenizer.get_vocab(true).into_values().max();
        Ok(Self {
            tokenizer,
            json,
            digest: blake3::hash(&files.tokenizer).to_hex().to_string(),
            rows: rows.map_or(0, |highest| highest + 1),
        })
    }

    fn normalized(&self, text: &str) -> Result<String> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            let done = normalizer.normalize(&mut normalized);
            done.map_err(|_| anyhow!("a term cannot be normalized"))?;
        }
        Ok(normalized.get().to_owned())
    }

    /// Refuses a term that is an added token already, or the same as another once normalized.
    fn expect_new(&self, terms: &[Term]) -> Result<()> {
        let added = self.tokenizer.get_added_vocabulary();
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        for token in added.get_added_tokens_decoder().values() {
            taken.insert(self.normalized(&token.content)?, 0);
        }
        for Term { text, line } in terms {
            match taken.insert(self.normalized(text)?, *line) {
                Some(0) => bail!("the term of line {line} is a token already"),
                Some(other) => {
                    bail!("to the tokenizer, the terms of lines {other} and {line} are the same")
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The lines of terms that are one token already, and the others with their pieces.
    fn sort_out<'a>(&self, terms: &'a [Term]) -> Result<(Vec<usize>, Vec<Wanted<'a>>)> {
        let unknown = self.unknown();
        let mut single = Vec::new();
        let mut wanted = Vec::new();
        for term in terms {
            let pieces = self.pieces(term)?;
            let is_token = match pieces[..] {
                [id] => Some(id) != unknown,
                _ => self.tokenizer.token_to_id(&term.text).is_some(),
            };
            if is_token {
                single.push(term.line);
            } else {
                let known = pieces.into_iter().filter(|id| Some(*id) != unknown);
                wanted.push((term, known.collect()));
            }
        }
        Ok((single, wanted))
    }

    /// The id of what has no token, for tokenizers that do not fall back to bytes.
    fn unknown(&self) -> Option<u32> {
        let unknown = self.json["model"]["unk_token"].as_str()?;
        self.tokenizer.token_to_id(unknown)
    }

    /// The ids that stand for a term after a space.
    fn pieces(&self, term: &Term) -> Result<Vec<u32>> {
        let text = format!(" {}", term.text);
        // The cause is not passed on: it might quote the text.
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding =
            encoding.map_err(|_| anyhow!("the term of line {} has no tokens", term.line))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn free_ids(&self) -> BTreeSet<u32> {
        let added = self.tokenizer.get_added_vocabulary();
        let tokens = added.get_added_tokens_decoder().iter();
        let free = tokens.filter(|(_, token)| token.content.starts_with(UNUSED));
        free.map(|(id, _)| *id).collect()
    }

    /// Reads the new tokenizer as everybody will, and compares every id with the old one's.
    fn check(&self, new: &[u8], changed: &BTreeMap<u32, &Term>, rows: u32) -> Result<()> {
        let tokenizer = load(new)?;
        let highest = tokenizer.get_vocab(true).into_values().max();
        let mut sound = highest.map(|id| id + 1) == Some(rows);
        for id in 0..self.rows {
            let token = tokenizer.id_to_token(id);
            sound &= changed.contains_key(&id) || token == self.tokenizer.id_to_token(id);
        }
        for (id, term) in changed {
            sound &= tokenizer.token_to_id(&term.text) == Some(*id);
        }
        ensure!(
            sound,
            "the tokenizers library does not give the new tokens the ids that they are to have\n  \
             hint: ids of this tokenizer's added tokens do not follow one another"
        );
        let undecodable: Vec<usize> = changed
            .iter()
            .filter(|(id, term)| {
                let decoded = tokenizer.decode(&[**id], false);
                decoded.is_ok_and(|text| text != term.text)
            })
            .map(|(_, term)| term.line)
            .collect();
        ensure!(
            undecodable.is_empty(),
            "this tokenizer cannot turn the tokens of {} back into text: it takes some of their \
             characters for bytes\n  hint: leave out terms with letters such as é or µ",
            lines(undecodable)
        );
        Ok(())
    }
}

fn load(bytes: &[u8]) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_bytes(bytes)
        .map_err(|error| anyhow!("the tokenizer cannot be loaded: {error}"))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| anyhow!("the tokenizer's truncation cannot be lifted: {error}"))?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// The added tokens as `tokenizer.json` lists them.
struct Tokens {
    by_id: BTreeMap<u32, Map<String, Value>>,
    /// Those that were set, for the other file.
    set: BTreeSet<u32>,
    unused: u64,
}

impl Tokens {
    fn read(json: &Value) -> Result<Self> {
        let mut by_id = BTreeMap::new();
        let mut unused = 0;
        for entry in json["added_tokens"].as_array().into_iter().flatten() {
            let (id, own) = (entry["id"].as_u64(), entry.as_object());
            let (Some(id), Some(own)) = (id, own) else {
                bail!("one of its added tokens has no id");
            };
            let content = own
                .get("content")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let number = content
                .strip_prefix(UNUSED)
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                unused = unused.max(number + 1);
            }
            by_id.insert(u32::try_from(id)?, own.clone());
        }
        Ok(Self {
            by_id,
            set: BTreeSet::new(),
            unused,
        })
    }

    fn set(&mut self, id: u32, content: &str, single_word: bool) {
        let token = json!({
            "id": id,
            "content": content,
            "single_word": single_word,
            "lstrip": false,
            "rstrip": false,
            "normalized": true,
            "special": false,
        });
        if let Value::Object(token) = token {
            self.by_id.insert(id, token);
            self.set.insert(id);
        }
    }

    /// The next `[unused…]` that there is none of yet.
    fn unused_name(&mut self) -> String {
        self.unused += 1;
        format!("{UNUSED}{}]", self.unused - 1)
    }

    /// `tokenizer_config.json` with the new tokens, where it lists added tokens at all.
    fn configure(&self, config: &[u8]) -> Result<Vec<u8>> {
        let mut json: Value =
            serde_json::from_slice(config).context("tokenizer_config.json is not valid JSON")?;
        let Some(listed) = json
            .get_mut("added_tokens_decoder")
            .and_then(Value::as_object_mut)
        else {
            return Ok(config.to_vec());
        };
        for id in &self.set {
            let mut token = self.by_id[id].clone();
            token.shift_remove("id");
            listed.insert(id.to_string(), Value::Object(token));
        }
        pretty(&json)
    }

    fn write(self, old: &Value) -> Result<Vec<u8>> {
        let mut json = old.clone();
        let tokens = self.by_id.into_values().map(Value::Object);
        json["added_tokens"] = tokens.collect();
        pretty(&json)
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Numbers of lines in words.
pub fn lines(mut numbers: Vec<usize>) -> String {
    numbers.sort_unstable();
    let shown = &numbers[..numbers.len().min(LINES_MAX)];
    let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
    let more = match numbers.len().saturating_sub(LINES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("line{plural} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_terms_is_read_by_line() {
        let terms = read_terms("\u{feff}HbA1c\r\n\n  atrial fibrillation \n").expect("it is one");
        let term = |text: &str, line| Term {
            text: text.to_owned(),
            line,
        };
        assert_eq!(terms, [term("HbA1c", 1), term("atrial fibrillation", 3)]);
        for (text, wanted) in [
            ("\n \n", "there is no term in it"),
            ("a\nb\na\n", "line 3 is the term of line 1 once more"),
            ("a\tb\n", "line 1 has a control character"),
            (
                "a  b\n",
                "line 1 has a control character or two spaces in a row",
            ),
            (&"x".repeat(257), "line 1 has 257 bytes"),
        ] {
            let error = read_terms(text).expect_err(wanted).to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
        assert_eq!(lines(vec![3, 1]), "lines 1, 3");
        assert_eq!(
            lines((1..=14).collect()),
            "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 2 more"
        );
    }
}
