//! Every source of the catalog, read from files of the published names and columns: invented ones
//! for all of them, real ones for those that lie beside the project.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cohort::prepare;
use cohort::prepare::progress::Silent;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::{Library, documents, project};

/// The invented files, laid out and named as the real ones; a test packs what is published packed.
/// The one Parquet file is made here.
fn invented() -> Vec<PathBuf> {
    let mut folders = vec![project().join("tests/fixtures/catalog")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// An archive of articles as PubMed Central packed them.
fn archive(articles: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, article) in articles {
        let mut header = tar::Header::new_gnu();
        header.set_size(article.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, article.as_slice())
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// Sentences with labels, as the ADE corpus has them.
fn sentences(texts: &[&str]) -> Vec<u8> {
    let schema = "message m { optional binary text (UTF8); optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut rows = file.next_row_group().unwrap();
    let there = vec![1; texts.len()];
    let mut column = rows.next_column().unwrap().unwrap();
    let texts: Vec<ByteArray> = texts.iter().map(|text| (*text).into()).collect();
    let text = column.typed::<ByteArrayType>();
    text.write_batch(&texts, Some(&there), None).unwrap();
    column.close().unwrap();
    let mut column = rows.next_column().unwrap().unwrap();
    let label = column.typed::<Int64Type>();
    label
        .write_batch(&vec![1; texts.len()], Some(&there), None)
        .unwrap();
    column.close().unwrap();
    rows.close().unwrap();
    file.into_inner().unwrap()
}

#[test]
fn every_source_of_the_catalog_is_read_as_it_is_published() {
    let library = Library::new();
    let root = project().join("tests/fixtures/catalog");
    let mut articles = Vec::new();
    for path in invented() {
        let content = fs::read(&path).unwrap();
        let file = path.strip_prefix(&root).unwrap();
        let is_of = |folder: &str| file.starts_with(folder);
        if let Ok(article) = file.strip_prefix("pmc") {
            articles.push((article.to_owned(), content.clone()));
            let name = article.file_stem().unwrap().to_string_lossy();
            library.write(Path::new(&format!("pmc/{name}.1/{name}.1.xml")), &content);
        } else if ["pubmed", "mimiciii", "mimic-iv-note"]
            .into_iter()
            .any(is_of)
        {
            library.write_gzip(&format!("{}.gz", file.display()), &content);
        } else {
            library.write(file, &content);
        }
    }
    let parquet = "ade_corpus_v2/Ade_corpus_v2_classification/train-00000-of-00001.parquet";
    let texts = ["A rash after penicillin.", "No reaction was seen."];
    library.write(Path::new(parquet), &sentences(&texts));
    let (config, _) = library.catalog();
    let expected: BTreeMap<String, u64> = config
        .institutions
        .iter()
        .flat_map(|institution| {
            let names = institution.sources.iter();
            names.map(|source| format!("{}/{}", institution.id, source.id))
        })
        .map(|name| {
            let documents = if name == "primock57/consultations" {
                1
            } else {
                2
            };
            (name, documents)
        })
        .collect();
    assert_eq!(expected.len(), 26);
    let (found, absent) = library.prepare();
    assert!(absent.is_empty(), "{absent:?}");
    assert_eq!(found, expected);

    // The packages that some still have, as the catalog's comment says.
    let packed = "pmc/oa_bulk/oa_comm/xml/oa_comm_xml.PMC012xxxxxx.baseline.2025-06-26.tar.gz";
    library.write_gzip(packed, &archive(&articles));
    let (mut config, origin) = library.catalog();
    config.output = library.path("packed");
    config.institutions.truncate(1);
    config.institutions[0]
        .sources
        .retain(|source| source.id == "pmc");
    let jats = r#"{"jats": {"path": "PATTERN", "members": "PMC*/PMC*.xml"}}"#;
    let pattern = "../../sources/pmc/oa_bulk/*/xml/oa_*_xml.PMC*.baseline.*.tar.gz";
    let jats = jats.replace("PATTERN", pattern);
    config.institutions[0].sources[0].read = serde_json::from_str(&jats).unwrap();
    let manifest = prepare::run(&config, &origin, &mut Silent).unwrap();
    assert_eq!(
        documents(&manifest),
        BTreeMap::from([("nlm/pmc".to_owned(), 2)])
    );
}

#[test]
fn real_files_are_read_through_the_catalog() {
    let data = project().join("../shared/data");
    if !data.exists() {
        crate::support::skipped("no ../shared/data");
        return;
    }
    let library = Library::new();
    let link = |from: &str, to: &str| {
        let to = library.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        symlink(data.join(from).canonicalize().unwrap(), to).unwrap();
    };
    link("aci_bench", "aci-bench/data/challenge_data");
    link("primock57", "primock57");
    link("q_pain", "q-pain/1.0.0");
    link(
        "simulated_interviews",
        "simulated-interviews/Data/Clean Transcripts",
    );
    let (found, absent) = library.prepare();
    let expected = [
        ("aci-bench/test-visits", 240),
        ("aci-bench/visits", 174),
        ("primock57/consultations", 57),
        ("primock57/notes", 57),
        ("stanford/q-pain", 55),
        ("western/interviews", 272),
    ];
    let expected = expected.map(|(name, documents)| (name.to_owned(), documents));
    assert_eq!(found, BTreeMap::from(expected));
    assert_eq!(absent.len() + found.len(), 26);
}
