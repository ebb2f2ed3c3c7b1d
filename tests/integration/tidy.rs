//! The rules of the house that no compiler checks: who may use whom, how long, how wide, and what
//! must not lie about.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is a panic"
)]

use std::fs;
use std::path::{Path, PathBuf};

use cohort::config::{self, RunConfig};
use cohort::prepare::config::CorpusConfig;

mod configuration;
mod source;

use source::{Source, sources};

const CODE_LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with every complaint at once.
#[track_caller]
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The complaints about every line of some files, with the place.
fn by_line(
    sources: &[Source],
    lines: impl Fn(&Source) -> &str,
    complain: impl Fn(&Source, &str) -> Option<String>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (index, line) in lines(source).lines().enumerate() {
            if let Some(complaint) = complain(source, line) {
                complaints.push(format!("{}:{}: {complaint}", source.name, index + 1));
            }
        }
    }
    complaints
}

/// Modules in the order that the crate's documentation gives.
fn module_order() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("//! - "));
    let names = rows.flat_map(|row| row.split("[`").skip(1));
    names
        .map(|name| name.split('`').next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_documented_order_names_every_module() {
    let mut documented = module_order();
    documented.sort();
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut declared: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    declared.sort();
    assert_eq!(documented, declared);
}

#[test]
fn modules_use_only_those_before_them() {
    let order = module_order();
    let place = |module: &str| order.iter().position(|name| name == module);
    let complaints = by_line(
        &sources("src"),
        |source| &source.shipped,
        |source, line| {
            let own = place(source.module())?;
            let wrong = |used: &str| place(used).is_none_or(|used| used > own);
            let used = line.split("crate::").skip(1).map(source::first_word);
            let wrong: Vec<&str> = used.filter(|used| wrong(used)).collect();
            let (own, used) = (&order[own], wrong.first()?);
            Some(format!(
                "{own} must not use `crate::{used}`, see src/lib.rs"
            ))
        },
    );
    expect_none(&complaints);
}

#[test]
fn outside_things_enter_at_one_place() {
    for (thing, allowed) in [
        ("serde_saphyr::", &["config"][..]),
        ("object_store::", &["store"]),
        ("pub use ", &[]),
    ] {
        let complaints = by_line(
            &sources("src"),
            |source| &source.shipped,
            |source, line| {
                let misplaced = line.contains(thing) && !allowed.contains(&source.module());
                misplaced.then(|| format!("`{thing}` belongs to {allowed:?} only"))
            },
        );
        expect_none(&complaints);
    }
    let pure = ["ids", "diagnosis", "corpus", "run"];
    let edges = [
        "tokio::",
        "tracing::",
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
    ];
    let complaints = by_line(
        &sources("src"),
        |source| &source.shipped,
        |source, line| {
            let edge = edges.iter().find(|edge| line.contains(**edge))?;
            pure.contains(&source.module())
                .then(|| format!("`{edge}` in a pure module"))
        },
    );
    expect_none(&complaints);
}

#[test]
fn unsafe_code_stays_where_it_is_known() {
    let complaints = by_line(
        &sources("src"),
        |source| &source.code,
        |source, line| {
            let known = source.module() == "torch" || source.name == "src/data/shard.rs";
            let is_unsafe = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe");
            (is_unsafe && !known)
                .then(|| "unsafe code outside src/torch and the memory map".to_owned())
        },
    );
    expect_none(&complaints);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut complaints = Vec::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        let lines = source.shipped.lines();
        let code = lines.filter(|line| !line.trim().is_empty()).count();
        if code > CODE_LINES_MAX {
            complaints.push(format!("{}: {code} lines of code", source.name));
        }
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{}: no `//!` header", source.name));
        }
    }
    expect_none(&complaints);
}

#[test]
fn the_compilers_limits_are_on() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (cargo, clippy) = (read("Cargo.toml"), read("clippy.toml"));
    for (text, setting) in [
        (&cargo, "unsafe_code = \"deny\""),
        (&cargo, "pedantic = { level = \"warn\", priority = -1 }"),
        (&cargo, "unwrap_used = \"warn\""),
        (&clippy, "too-many-lines-threshold = 70"),
        (&clippy, "too-many-arguments-threshold = 5"),
    ] {
        assert!(text.contains(setting), "{setting} is missing");
    }
    let lifted = ["too_many_lines", "too_many_arguments", "unwrap_used"];
    let complaints = by_line(
        &sources("src"),
        |source| &source.code,
        |_, line| {
            let lint = lifted.iter().find(|lint| line.contains(**lint))?;
            Some(format!("clippy::{lint} is lifted"))
        },
    );
    expect_none(&complaints);
}

#[test]
fn nothing_unfinished_lies_about() {
    let banned = [".unwrap()", "todo!", "unimplemented!", "dbg!", "#[ignore"];
    let complaints = by_line(
        &sources("src"),
        |source| &source.shipped,
        |_, line| {
            let found = banned.iter().find(|word| line.contains(**word))?;
            Some(format!("`{found}`"))
        },
    );
    expect_none(&complaints);
    let ignored = by_line(
        &sources("tests"),
        |source| &source.code,
        |_, line| {
            line.contains("#[ignore")
                .then(|| "an ignored test".to_owned())
        },
    );
    expect_none(&ignored);
    // Spelled in halves, as this file is searched too.
    let markers = [("TO", "DO"), ("FIX", "ME"), ("HA", "CK")];
    let markers = markers.map(|(head, tail)| format!("{head}{tail}"));
    let complaints = by_line(
        &texts(),
        |source| &source.text,
        |_, line| {
            let found = markers.iter().find(|marker| line.contains(*marker))?;
            Some(format!("`{found}`"))
        },
    );
    expect_none(&complaints);
}

#[test]
fn lines_are_narrow_and_end_where_they_seem_to() {
    let complaints = by_line(
        &texts(),
        |source| &source.text,
        |source, line| {
            let snapshot = source.name.starts_with("tests/") && source::is_quoted(source, line);
            let limited = source::is_rust(Path::new(&source.name)) && !snapshot;
            let columns = line.chars().count();
            if line.ends_with([' ', '\t', '\r']) {
                Some("ends in white space".to_owned())
            } else if limited && columns > COLUMNS_MAX {
                Some(format!("{columns} columns"))
            } else {
                None
            }
        },
    );
    expect_none(&complaints);
    for source in texts() {
        assert!(
            source.text.ends_with('\n'),
            "{} has no last line end",
            source.name
        );
    }
}

#[test]
fn no_machine_is_named() {
    let homes = ["work", "home", "root", "Users"].map(|folder| format!("/{folder}/"));
    let complaints = by_line(
        &texts(),
        |source| &source.text,
        |_, line| {
            let found = homes.iter().find(|home| {
                line.match_indices(home.as_str()).any(|(at, _)| {
                    // A folder of that name inside a path or an address is none of a machine's.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-*}".contains(c))
                })
            })?;
            Some(format!("`{found}` is a path of one machine"))
        },
    );
    expect_none(&complaints);
}

#[test]
fn every_configuration_loads() {
    let mut found = 0;
    for path in source::files(&root().join("configs")) {
        if path
            .parent()
            .is_some_and(|folder| folder.ends_with("corpus"))
        {
            config::load::<CorpusConfig>(&path).unwrap();
        } else {
            RunConfig::load(&path).unwrap();
        }
        found += 1;
    }
    assert!(found >= 3, "only {found} configurations");
}

/// Every text file that people write.
fn texts() -> Vec<Source> {
    let folders = [
        "src", "tests", "configs", "scripts", "docs", ".ci", ".cargo", "launcher",
    ];
    let mut paths: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| source::files(&root().join(folder)))
        .collect();
    let top = fs::read_dir(root()).unwrap();
    let top = top.map(|entry| entry.unwrap().path());
    let generated = [".git", "Cargo.lock"];
    paths.extend(top.filter(|path| path.is_file() && !generated.iter().any(|g| path.ends_with(g))));
    paths.sort();
    paths.iter().filter_map(|path| Source::read(path)).collect()
}
