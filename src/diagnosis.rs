//! An error as a person reads it: what went wrong and where on one line, and what to do about it on
//! lines of its own at the end.

/// Joins the messages of an error and its causes with colons. Lines that begin with `hint:` come
/// last, whichever message they stand in; a cause that its error already quotes is left out.
pub fn describe(error: &anyhow::Error) -> String {
    let mut what = String::new();
    let mut hints: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let (hinting, saying): (Vec<&str>, Vec<&str>) = text
            .lines()
            .partition(|line| line.trim_start().starts_with("hint:"));
        for hint in hinting {
            let hint = format!("\n  {}", hint.trim());
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        let saying = saying.join("\n");
        if what.is_empty() {
            what = saying;
        } else if !what.ends_with(&saying) {
            what.push_str(": ");
            what.push_str(&saying);
        }
    }
    what + &hints.concat()
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn hints_come_last_and_once() {
        let error = Err::<(), _>(anyhow!("no such file"))
            .context("cannot read the manifest\n  hint: run cohort prepare")
            .context("phase \"stable\"\n  hint: run cohort prepare")
            .unwrap_err();
        assert_eq!(
            describe(&error),
            "phase \"stable\": cannot read the manifest: no such file\n  hint: run cohort prepare"
        );
    }

    #[test]
    fn a_cause_that_is_quoted_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write: {0}")]
        struct Outer(#[source] std::fmt::Error);
        let error = anyhow!(Outer(std::fmt::Error)).context("the store");
        let cause = std::fmt::Error.to_string();
        assert_eq!(
            describe(&error),
            format!("the store: cannot write: {cause}")
        );
    }

    #[test]
    fn an_excerpt_stays_below_its_message() {
        let error = anyhow!("run.yaml:1:1: wrong\n  |\n1 | x\n  | ^");
        assert_eq!(describe(&error), "run.yaml:1:1: wrong\n  |\n1 | x\n  | ^");
    }
}
