//! Text columns of Parquet files, written here row group by row group.

use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::{PRIVATE, documents, refused, texts};

const SCHEMA: &str = "message notes {
    required int64 id;
    required binary note (UTF8);
    optional binary title (UTF8);
    required group inner { optional binary text; }
    required group tags (LIST) { repeated group list { required binary element (UTF8); } }
}";

/// A row: the note, the title, the text in the group.
type Row<'a> = (&'a [u8], Option<&'a str>, Option<&'a str>);

/// A file of these rows, a few in each row group.
pub fn table(rows: &[Row<'_>], rows_each: usize, compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = WriterProperties::builder().set_compression(compression);
    let properties = Arc::new(properties.build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for rows in rows.chunks(rows_each) {
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..rows.len() as i64).collect();
        let typed = column.typed::<Int64Type>();
        typed.write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let write = |values: Vec<Option<&[u8]>>| {
            let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
            let values: Vec<ByteArray> = values
                .into_iter()
                .flatten()
                .map(|value| value.to_vec().into())
                .collect();
            (values, levels)
        };
        let columns = [
            write(rows.iter().map(|row| Some(row.0)).collect()),
            write(rows.iter().map(|row| row.1.map(str::as_bytes)).collect()),
            write(rows.iter().map(|row| row.2.map(str::as_bytes)).collect()),
            write(rows.iter().map(|_| Some(&b"tag"[..])).collect()),
        ];
        for (values, levels) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let repeats = vec![0; levels.len()];
            let typed = column.typed::<ByteArrayType>();
            typed
                .write_batch(&values, Some(&levels), Some(&repeats))
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    file.into_inner().unwrap()
}

/// A file of one row and of two columns that are called alike.
fn two_of_one_name() -> Vec<u8> {
    let schema = "message notes { required binary note (UTF8); required binary note (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&[PRIVATE.into()], None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    file.into_inner().unwrap()
}

#[test]
fn columns_become_documents() {
    let notes: Vec<String> = (0..300).map(|row| format!("note {row}\r\nnaïve")).collect();
    let rows: Vec<Row<'_>> = notes
        .iter()
        .enumerate()
        .map(|(row, note)| {
            let title = (row % 3 > 0).then_some("Title");
            (note.as_bytes(), title, (row % 2 > 0).then_some("inner"))
        })
        .collect();
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
    let kinds = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(parquet::basic::GzipLevel::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(parquet::basic::BrotliLevel::default()),
        zstd,
    ];
    for compression in kinds {
        let file = [("a.parquet", table(&rows, 130, compression))];
        let read = documents("parquet: {path: a.parquet, text: note}", &file).unwrap();
        assert_eq!(read.len(), 300);
        assert_eq!(
            read[140],
            (
                "DIR/a.parquet, row 141".to_owned(),
                "note 140\nnaïve".to_owned()
            )
        );
        let joined = "parquet: {path: a.parquet, text: [{join: [title, note]}, inner.text]}";
        let read = texts(joined, &file).unwrap();
        assert_eq!(read.len(), 600);
        assert_eq!(
            read[..4],
            ["note 0\nnaïve", "", "Title\nnote 1\nnaïve", "inner"]
        );
    }
    let none = table(&[], 1, Compression::SNAPPY);
    let read = texts(
        "parquet: {path: a.parquet, text: note}",
        &[("a.parquet", none)],
    );
    assert_eq!(read, Ok(Vec::new()));
}

#[test]
fn columns_and_files_that_are_none() {
    let file = || {
        [(
            "a.parquet",
            table(&[(b"a", None, None)], 1, Compression::SNAPPY),
        )]
    };
    let error = |column: &str| {
        refused(
            &format!("parquet: {{path: a.parquet, text: {column}}}"),
            &file(),
        )
    };
    insta::assert_snapshot!(error("body"), @r#"
    DIR/a.parquet: no column "body" among 5
      hint: set `text` to the column that holds the document
    "#);
    insta::assert_snapshot!(error("id"), @r#"
    DIR/a.parquet: the column "id" holds no text
      hint: set `text` to the column that holds the document; lists are not read
    "#);
    insta::assert_snapshot!(error("tags.list.element"), @r#"
    DIR/a.parquet: the column "tags.list.element" holds no text
      hint: set `text` to the column that holds the document; lists are not read
    "#);
    let read = "parquet: {path: a.parquet, text: note}";
    let nul = table(&[(b"Przewalski\0", None, None)], 1, Compression::SNAPPY);
    insta::assert_snapshot!(refused(read, &[("a.parquet", nul)]), @r#"
    DIR/a.parquet, row 1: a NUL character in the field "note", so this is no text
      hint: set `text` to the field that holds the document, or write the file anew
    "#);
    insta::assert_snapshot!(refused(read, &[("a.parquet", two_of_one_name())]), @r#"
    DIR/a.parquet: 2 columns "note"
      hint: give the columns names of their own
    "#);
    let latin = [PRIVATE.as_bytes(), b" na\xefve"].concat();
    let rows: Vec<Row<'_>> = vec![(b"a", None, None), (b"b", None, None), (&latin, None, None)];
    let file = table(&rows, 2, Compression::SNAPPY);
    insta::assert_snapshot!(refused(read, &[("a.parquet", file)]), @r#"
    DIR/a.parquet, row 3: the column "note" is not valid UTF-8
      hint: set `text` to the column that holds the document, or write the file anew
    "#);
    for bytes in [
        format!("id,note\n1,{PRIVATE}\n").into_bytes(),
        Vec::new(),
        b"PAR1".to_vec(),
    ] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused(read, &[("a.parquet", bytes)]), @r"
            DIR/a.parquet: no Parquet file, or a damaged one
              hint: the format is not detected; look whether the files are Parquet, and copy them again if they are
            ");
        }
    }
    let mut damaged = table(&[(PRIVATE.as_bytes(), None, None)], 1, Compression::SNAPPY);
    let at = damaged.windows(4).position(|bytes| bytes == b"Prze");
    damaged[at.unwrap() - 12..][..12].fill(0xff);
    insta::assert_snapshot!(refused(read, &[("a.parquet", damaged)]), @r"
    DIR/a.parquet, after row 0: the Parquet data is damaged
      hint: copy the file again
    ");
}
