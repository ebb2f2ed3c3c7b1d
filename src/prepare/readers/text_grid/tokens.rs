//! What counts in Praat's text files: free-standing numbers, texts in quotes, flags in angle
//! brackets. Names, signs, indices in brackets and what follows a `!` are comment.

/// Walks through a file.
pub struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

enum Token<'a> {
    Number(f64),
    Text(String),
    Flag(&'a str),
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The line up to which was read, from 1.
    pub fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// The next token, if it is a number.
    pub fn number(&mut self) -> Option<f64> {
        match self.next()? {
            Token::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The next token, if it is a text.
    pub fn text(&mut self) -> Option<String> {
        match self.next()? {
            Token::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the next token is this flag.
    pub fn flag(&mut self, wanted: &str) -> bool {
        matches!(self.next(), Some(Token::Flag(flag)) if flag == wanted)
    }

    /// Whether nothing but comment is left. A text without its closing quote is left too.
    pub fn at_end(&mut self) -> bool {
        self.next().is_none() && self.text[self.at..].trim_start().is_empty()
    }

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = &self.text[self.at..];
            let rest = rest.trim_start();
            self.at = self.text.len() - rest.len();
            if let Some(quoted) = rest.strip_prefix('"') {
                return self.quoted(quoted).map(Token::Text);
            }
            if rest.starts_with('!') {
                self.at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            let word = rest.split(char::is_whitespace).next()?;
            if word.is_empty() {
                return None;
            }
            self.at += word.len();
            if word.starts_with('<') && word.ends_with('>') {
                return Some(Token::Flag(word));
            }
            let is_number =
                word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
            let number = word.parse().ok().filter(|number: &f64| number.is_finite());
            if let Some(number) = number.filter(|_| is_number) {
                return Some(Token::Number(number));
            }
        }
    }

    /// A text up to its closing quote; a doubled quote stands for one.
    fn quoted(&mut self, rest: &str) -> Option<String> {
        let mut text = String::new();
        let mut left = rest;
        loop {
            let end = left.find('"')?;
            text.push_str(&left[..end]);
            left = &left[end + 1..];
            match left.strip_prefix('"') {
                Some(after) => {
                    text.push('"');
                    left = after;
                }
                None => break,
            }
        }
        self.at = self.text.len() - left.len();
        Some(text)
    }
}
